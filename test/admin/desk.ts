import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { stringify } from 'yaml'
import { freePort } from '../free-port.ts'
import { type Ran, run, type RunOptions } from '../rig.ts'

export const MAIN = join(import.meta.dirname, '../../src/main.ts')

/** An admin's desk: a berth.yaml and a state directory, with a node that is switched off. */
export class Desk implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'berth-desk-'))
  readonly configPath = join(this.directory, 'berth.yaml')
  readonly stateDir = join(this.directory, 'state')
  readonly #daemons: ChildProcess[] = []

  configure(config: Record<string, unknown>): void {
    writeFileSync(this.configPath, stringify({ stateDir: this.stateDir, web: { listen: 'off' }, ...config }))
  }

  /** `berth …` */
  berth(words: string[], options?: RunOptions): Promise<Ran> {
    return run([process.execPath, MAIN, ...words, '--config', this.configPath], options)
  }

  /** `berth … --json` */
  async json<T>(...words: string[]): Promise<T> {
    const ran = await this.berth([...words, '--json'])
    if (ran.code > 1) throw new Error(ran.stderr)
    return JSON.parse(ran.stdout) as T
  }

  /** `berth … ` on a terminal on which `typed` is typed. */
  onTerminal(words: string[], typed: string): Promise<Ran> {
    const line = [process.execPath, MAIN, ...words, '--config', this.configPath].join(' ')
    return run(['script', '--quiet', '--return', '--command', line, '/dev/null'], { input: `${typed}\n` })
  }

  /** Starts `berth serve` and waits for its ready line. */
  async serve(env: Record<string, string> = {}): Promise<{ daemon: ChildProcess; ready: Record<string, unknown> }> {
    const daemon = spawn(process.execPath, [MAIN, 'serve', '--config', this.configPath], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe']
    })
    this.#daemons.push(daemon)
    const lines: string[] = []
    const ready = Promise.withResolvers<Record<string, unknown>>()
    createInterface({ input: daemon.stderr }).on('line', line => lines.push(line))
    createInterface({ input: daemon.stdout }).on('line', line => {
      lines.push(line)
      const event = JSON.parse(line) as Record<string, unknown>
      if (event['msg'] === 'ready') ready.resolve(event)
    })
    daemon.once('exit', code => ready.reject(new Error(`serve ended with ${code}:\n${lines.join('\n')}`)))
    return { daemon, ready: await ready.promise }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const daemon of this.#daemons) await endProcess(daemon, 'SIGKILL')
    rmSync(this.directory, { recursive: true, force: true })
  }
}

export async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill(signal)
    await once(child, 'exit')
  }
  return child.exitCode
}

/** A desk whose only node does not answer. */
export async function openDesk(config: Record<string, unknown> = {}): Promise<Desk> {
  const desk = new Desk()
  desk.configure({
    ssh: { listen: '127.0.0.1' },
    nodes: {
      gpu1: {
        address: '127.0.0.1',
        managePort: await freePort(),
        lxd: `unix://${desk.directory}/no-lxd.socket`
      }
    },
    templates: [{ name: 'debian-12', image: 'debian-12' }],
    ...config
  })
  return desk
}

/** A new ed25519 key pair; the path of the public key. */
export async function makeKey(directory: string, name: string): Promise<string> {
  const path = join(directory, name)
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', path])
  return `${path}.pub`
}
