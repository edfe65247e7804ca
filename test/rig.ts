import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { stringify } from 'yaml'
import type { Action } from '../src/admin/action.ts'
import { listAudit } from '../src/admin/audit.ts'
import { perform } from '../src/admin/perform.ts'
import { addUser } from '../src/admin/user-actions.ts'
import type { AuditRow } from '../src/command/audit.ts'
import { loadConfig } from '../src/config.ts'
import { freePort } from './free-port.ts'
import { downLab, upLab } from './lab/lab.ts'
import type { LabServer } from './lab/server.ts'

const MAIN = join(import.meta.dirname, '../src/main.ts')

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string | Buffer
  /** Killed with SIGKILL after this long; 120 s unless told. */
  readonly timeoutMs?: number
  readonly env?: Record<string, string>
}

/** Runs a program to its end; never throws for a failing one. A signal's number is added to 128. */
export async function run(
  argv: readonly string[],
  { input = '', timeoutMs = 120_000, env }: RunOptions = {}
): Promise<Ran> {
  const child = spawn(argv[0] as string, argv.slice(1), { env: { ...process.env, ...env }, stdio: 'pipe' })
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)]
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  clearTimeout(timer)
  return { code: code ?? (signal === 'SIGKILL' ? 137 : 143), stdout: stdout(), stderr: stderr() }
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  return () => Buffer.concat(chunks).toString('utf8')
}

/** What `berth …` does with a running `serve`, without starting a program for it: that takes a second of the processor. */
export const act = <Params, Result>(
  { configPath }: { configPath: string },
  action: Action<Params, Result>,
  params: Params
): Promise<Result> => perform(loadConfig(configPath), action, params, () => {})

export interface RigOptions {
  /** Laid over the configuration of the only node, gpu1. */
  readonly node?: Record<string, unknown>
  /** Laid over the top level of berth.yaml. */
  readonly config?: Record<string, unknown>
  readonly server?: 'lxd' | 'incus'
  readonly images?: string[]
  /** A server of this rig's alone, for tests that stop it. */
  readonly ownLab?: boolean
}

/** A daemon of its own (state, project, bridge, ports) on the run's LXD, and members with the real OpenSSH client. */
export class Rig implements AsyncDisposable {
  readonly lab: LabServer
  readonly directory: string
  readonly configPath: string
  readonly managePort: number
  readonly project: string
  readonly network: string
  /** Taken down with the rig. */
  readonly #ownLab: string | undefined
  #daemon: ChildProcess | undefined
  readonly #log: string[] = []

  constructor(lab: LabServer, directory: string, managePort: number, tag: string, ownLab?: string) {
    this.#ownLab = ownLab
    this.lab = lab
    this.directory = directory
    this.configPath = join(directory, 'berth.yaml')
    this.managePort = managePort
    this.project = `berth-${tag}`
    this.network = `bb${tag}`
  }

  /** Process id of `berth serve`. */
  get pid(): number {
    return this.#daemon?.pid as number
  }

  /** The daemon's log so far, one JSON document a line. */
  get log(): readonly string[] {
    return this.#log
  }

  async serve(): Promise<void> {
    const child = spawn(process.execPath, [MAIN, 'serve', '--config', this.configPath], {
      stdio: ['ignore', 'pipe', 'pipe']
    })
    this.#daemon = child
    const ready = Promise.withResolvers<void>()
    createInterface({ input: child.stdout }).on('line', line => {
      this.#log.push(line)
      if (line.includes('"msg":"ready"')) ready.resolve()
    })
    createInterface({ input: child.stderr }).on('line', line => this.#log.push(line))
    child.once('exit', code =>
      ready.reject(new Error(`berth serve ended with ${code}:\n${this.#log.slice(-20).join('\n')}`))
    )
    await ready.promise
  }

  /** Ends the daemon and waits for it. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#daemon
    this.#daemon = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }

  /** `berth …` as an admin types it. */
  berth(...words: string[]): Promise<Ran> {
    return run([process.execPath, MAIN, ...words, '--config', this.configPath])
  }

  /** As `berth audit`. */
  audit(user?: string): Promise<AuditRow[]> {
    return act(this, listAudit, { user, limit: 1000 })
  }

  /** A new ed25519 key pair; the path of the private key. */
  async makeKey(name: string): Promise<string> {
    const path = join(this.directory, `key-${name}`)
    const made = await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', path])
    if (made.code !== 0) throw new Error(made.stderr)
    return path
  }

  /** An enrolled member with a key of the same name, and a client configuration as berth prints it. */
  async addMember(name: string): Promise<Member> {
    const identity = await this.makeKey(name)
    await act(this, addUser, { name, keys: [readFileSync(`${identity}.pub`, 'utf8')] })
    return this.member(name, identity)
  }

  /** A member whose container runs. */
  async addRunningMember(name: string): Promise<Member> {
    const member = await this.addMember(name)
    const registered = await member.register()
    if (registered.code !== 0) throw new Error(registered.stderr)
    return member
  }

  /** A member whose key is enrolled; fetches config and known_hosts over SSH as the README tells. */
  async member(name: string, identity: string): Promise<Member> {
    const member = new Member(this, name, identity)
    await member.fetchConfig()
    return member
  }

  /** The bare client line of the manage endpoint, before any config. */
  manageArguments(login: string, identity: string): string[] {
    return [
      'ssh',
      ...[
        '-F',
        'none',
        '-o',
        'StrictHostKeyChecking=no',
        '-o',
        `UserKnownHostsFile=${join(this.directory, 'known_hosts.first')}`
      ],
      ...['-o', 'IdentitiesOnly=yes', '-o', 'IdentityAgent=none', '-i', identity],
      ...['-p', String(this.managePort), `${login}@${this.lab.hostAddress}`]
    ]
  }

  /** `lxc …` on the run's server, in the rig's project. */
  lxc(...words: string[]): Promise<Ran> {
    const [tool, directory] =
      this.lab.kind === 'lxd' ? ['lxc', `LXD_DIR=${this.lab.lxdDir}`] : ['incus', 'INCUS_DIR=/var/lib/incus']
    return run([...this.lab.enterAll, 'env', directory, tool, '--project', this.project, ...words])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end()
    if (this.#ownLab === undefined) await this.#endContainers()
    else await downLab(this.#ownLab)
    rmSync(this.directory, { recursive: true, force: true })
  }

  /** The rest goes with the lab. */
  async #endContainers(): Promise<void> {
    const { stdout } = await this.lxc('list', '--format', 'csv', '--columns', 'n')
    const names = stdout.split('\n').filter(Boolean)
    if (names.length > 0) await this.lxc('delete', '--force', ...names)
  }
}

export class Member {
  readonly rig: Rig
  readonly name: string
  readonly identity: string
  readonly sshConfig: string
  readonly #knownHosts: string

  constructor(rig: Rig, name: string, identity: string) {
    this.rig = rig
    this.name = name
    this.identity = identity
    this.sshConfig = join(rig.directory, `ssh_config-${name}`)
    this.#knownHosts = join(rig.directory, `known_hosts-${name}`)
  }

  async fetchConfig(): Promise<void> {
    const bare = this.rig.manageArguments(this.name, this.identity)
    const [config, knownHosts] = [await run([...bare, 'config --no-wake']), await run([...bare, 'known-hosts'])]
    if (config.code !== 0 || knownHosts.code !== 0) throw new Error(config.stderr + knownHosts.stderr)
    const options = `Host *\n  IdentityFile ${this.identity}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile ${this.#knownHosts}\n  StrictHostKeyChecking yes\n  BatchMode yes\n  ControlMaster no\n  ControlPath none\n`
    writeFileSync(this.#knownHosts, knownHosts.stdout)
    // Before the printed lines, for the first value of an option is the one that counts.
    writeFileSync(this.sshConfig, `${options}${config.stdout}`)
  }

  /** `ssh gpu1-manage …`; the words after any ssh options. */
  manage(words = '', { options = [], ...rest }: RunOptions & { options?: string[] } = {}): Promise<Ran> {
    return run(this.manageLine(words, options), rest)
  }

  manageLine(words: string, options: string[] = []): string[] {
    return ['ssh', '-F', this.sshConfig, ...options, 'gpu1-manage', ...(words === '' ? [] : [words])]
  }

  /** `ssh register@gpu1-manage NAME` */
  register(name = this.name): Promise<Ran> {
    return run(['ssh', '-F', this.sshConfig, 'register@gpu1-manage', name])
  }

  /** `ssh gpu1 …`: into the container. */
  login(command: string, { options = [], ...rest }: RunOptions & { options?: string[] } = {}): Promise<Ran> {
    return run(['ssh', '-F', this.sshConfig, ...options, 'gpu1', command], rest)
  }
}

/** Brings up what a test needs; the lab itself stays for the next test file. */
export async function startRig(options: RigOptions = {}): Promise<Rig> {
  const shared = process.env['BERTH_TEST_LAB'] ?? 'test'
  const ownLab = options.ownLab ? `${shared}-${process.pid}` : undefined
  const up = await upLab({
    name: ownLab ?? shared,
    images: options.images ?? ['debian-12'],
    servers: options.server === 'incus' ? ['lxd', 'incus'] : ['lxd']
  })
  const lab = options.server === 'incus' ? (up.incus as LabServer) : up
  const tag = Math.floor(Math.random() * 36 ** 6)
    .toString(36)
    .padStart(6, '0')
  const managePort = await freePort(lab.hostAddress)
  const rig = new Rig(lab, mkdtempSync(join(tmpdir(), 'berth-rig-')), managePort, tag, ownLab)
  // Fixed ports of rigs on one server must differ: they share its address.
  const from = 20_000 + Math.floor(Math.random() * 1200) * 10
  writeFileSync(
    rig.configPath,
    stringify({
      stateDir: join(rig.directory, 'state'),
      ports: { from, to: from + 9 },
      forwardPorts: { from: 11_000, to: 11_009 },
      ssh: { listen: lab.hostAddress },
      web: { listen: 'off' },
      nodes: {
        gpu1: {
          address: lab.nodeAddress,
          managePort,
          manageAddress: lab.hostAddress,
          lxd: `unix://${lab.lxdSocket}`,
          project: rig.project,
          storagePool: lab.pool,
          network: rig.network,
          limits: { memory: '512MiB', processes: 500, disk: '2GiB', cpu: 1 },
          ...options.node
        }
      },
      templates: (options.images ?? ['debian-12']).map(name => ({
        name,
        image: name,
        description: `${name} of the tests`
      })),
      ...options.config
    })
  )
  try {
    await rig.serve()
  } catch (error) {
    await rig[Symbol.asyncDispose]()
    throw error
  }
  return rig
}
