import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../test/rig.ts'
import { must } from './bench.ts'

/** OpenSSH's sshd of this machine, set up as Debian ships it, on a port of loopback; who logs in is root. */
export class PeerSshd implements AsyncDisposable {
  readonly #directory: string
  readonly #daemon: ChildProcess
  readonly port: number
  readonly identity: string

  private constructor(directory: string, daemon: ChildProcess, port: number, identity: string) {
    this.#directory = directory
    this.#daemon = daemon
    this.port = port
    this.identity = identity
  }

  /** @param forceCommand a shell script that runs in the place of every command */
  static async start(forceCommand?: string): Promise<PeerSshd> {
    const directory = mkdtempSync(join(tmpdir(), 'berth-bench-sshd-'))
    const path = (name: string) => join(directory, name)
    for (const name of ['host', 'user']) {
      must(await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', path(name)]))
    }
    const port = await freePort()
    if (forceCommand !== undefined) {
      writeFileSync(path('forced'), `#!/bin/sh\n${forceCommand}\n`)
      chmodSync(path('forced'), 0o755)
    }
    const settings = [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${path('host')}`,
      `PidFile none`,
      `AuthorizedKeysFile ${path('user')}.pub`,
      'StrictModes no',
      'PermitRootLogin prohibit-password',
      // Nobody is to be turned away in a crowd.
      'MaxStartups 1000',
      // From here on as in Debian's sshd_config.
      'KbdInteractiveAuthentication no',
      'UsePAM yes',
      'X11Forwarding yes',
      'PrintMotd no',
      'AcceptEnv LANG LC_*',
      ...(forceCommand === undefined ? [] : [`ForceCommand ${path('forced')}`])
    ]
    writeFileSync(path('sshd_config'), `${settings.join('\n')}\n`)
    mkdirSync('/run/sshd', { recursive: true, mode: 0o755 })
    const daemon = spawn('/usr/sbin/sshd', ['-D', '-E', path('log'), '-f', path('sshd_config')], { stdio: 'ignore' })
    while (!readFileSync(path('log'), { encoding: 'utf8', flag: 'a+' }).includes('Server listening')) {
      if (daemon.exitCode !== null) throw new Error(`sshd: ${readFileSync(path('log'), 'utf8')}`)
      await sleep(20)
    }
    return new PeerSshd(directory, daemon, port, path('user'))
  }

  get pid(): number {
    return this.#daemon.pid!
  }

  /** The client's command line; `options` go before the host. */
  ssh(command: readonly string[], options: readonly string[] = []): string[] {
    const client = ['ssh', '-F', 'none', '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null']
    const quiet = ['-o', 'LogLevel=ERROR', '-o', 'IdentitiesOnly=yes', '-o', 'IdentityAgent=none', '-i', this.identity]
    return [...client, ...quiet, '-p', String(this.port), ...options, 'root@127.0.0.1', ...command]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#daemon.kill()
    if (this.#daemon.exitCode === null && this.#daemon.signalCode === null) await once(this.#daemon, 'exit')
    rmSync(this.#directory, { recursive: true })
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
