import { execFileSync, spawn, type ChildProcess, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import ssh2 from 'ssh2'
import type { EndpointOptions } from './endpoint-process.ts'

export interface Outcome {
  stdout: string
  stderr: string
  exitCode: number | null
}

export interface Event {
  event: string
  [detail: string]: unknown
}

const PROGRAM = join(import.meta.dirname, 'endpoint-process.ts')

/** A manage endpoint in a real process, a directory of keys, and the real OpenSSH client to talk to it. */
export class Endpoint implements AsyncDisposable {
  readonly directory: string
  readonly ports: Readonly<Record<string, number>>
  readonly process: ChildProcess
  readonly log: string[] = []
  readonly #events: Event[] = []
  readonly #children = new Set<ChildProcess>()

  constructor(directory: string, process: ChildProcess, ports: Record<string, number>, events: Event[]) {
    this.directory = directory
    this.process = process
    this.ports = ports
    this.#events = events
    process.on('message', event => events.push(event as Event))
  }

  get port(): number {
    return this.ports['gpu1'] as number
  }

  get isAlive(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null
  }

  keyFile(name: string): string {
    return join(this.directory, name)
  }

  privateKey(name: string): string {
    return readFileSync(this.keyFile(name), 'utf8')
  }

  /** Arguments of ssh, scp and sftp that make them independent of the machine's own configuration. */
  options(keyName: string | undefined, ...options: string[]): string[] {
    // ssh takes the first value of each option, so the caller's come first.
    return [
      ...options,
      ...['-F', 'none', '-o', 'StrictHostKeyChecking=no', '-o', 'LogLevel=ERROR', '-o', 'IdentityAgent=none'],
      ...['-o', `UserKnownHostsFile=${join(this.directory, 'known_hosts')}`],
      ...(keyName === undefined ? [] : ['-i', this.keyFile(keyName), '-o', 'IdentitiesOnly=yes'])
    ]
  }

  /** `ssh` as alice with her key, unless the options say otherwise. */
  ssh(words: string[], { login = 'alice', key = 'alice', options = [], ...rest }: SshOptions = {}): Promise<Outcome> {
    const place = ['-p', String(rest.port ?? this.port), `${login}@${rest.host ?? '127.0.0.1'}`]
    return this.run('ssh', [...this.options(key || undefined, ...options), ...place, ...words], rest)
  }

  run(program: string, words: string[], { input, environment }: RunOptions = {}): Promise<Outcome> {
    const { child, outcome } = this.start(program, words, environment)
    child.stdin?.end(input ?? '')
    return outcome
  }

  /** A client that is still running when this returns; it ends with the endpoint. */
  start(program: string, words: string[], environment: NodeJS.ProcessEnv = {}): Running {
    const child = spawn(program, words, { env: { ...process.env, SSH_AUTH_SOCK: '', ...environment } })
    this.#children.add(child)
    child.once('close', () => this.#children.delete(child))
    // A client that is refused does not read its input to the end.
    child.stdin.on('error', () => {})
    return { child, outcome: readOutcome(child) }
  }

  startSsh(words: string[], options: string[] = []): Running {
    return this.start('ssh', [
      ...this.options('alice', ...options),
      '-p',
      String(this.port),
      'alice@127.0.0.1',
      ...words
    ])
  }

  /** A bare TCP connection; errors of its own end are of no interest. */
  async connect(): Promise<Socket> {
    const socket = connect(this.port, '127.0.0.1')
    socket.on('error', () => {})
    await once(socket, 'connect')
    return socket
  }

  /** ssh2's client, for what OpenSSH would never send. */
  async rawClient(config: ssh2.ConnectConfig = {}): Promise<ssh2.Client> {
    const client = new ssh2.Client()
    const ready = once(client, 'ready')
    client.connect({
      host: '127.0.0.1',
      port: this.port,
      username: 'alice',
      privateKey: this.privateKey('alice'),
      ...config
    })
    await ready
    client.on('error', () => {})
    return client
  }

  async ask(request: { do: 'nothing' | 'disable' | 'end-user'; name?: string }): Promise<Event> {
    const before = this.events('answer').length
    this.process.send(request)
    await this.#until(() => this.events('answer').length > before)
    return this.events('answer').at(-1) as Event
  }

  async memoryBytes(): Promise<number> {
    return (await this.ask({ do: 'nothing' }))['memoryBytes'] as number
  }

  /** The first event of that name, waiting for it if needed. */
  async event(name: string): Promise<Event> {
    const find = () => this.#events.find(({ event }) => event === name)
    await this.#until(() => find() !== undefined)
    return find() as Event
  }

  events(name: string): Event[] {
    return this.#events.filter(({ event }) => event === name)
  }

  sawEvent(name: string): boolean {
    return this.events(name).length > 0
  }

  /** Whether the endpoint still serves somebody who behaves. */
  async stillServes(): Promise<void> {
    const { exitCode, stdout, stderr } = await this.ssh(['say', 'out', 'fine'])
    if (!this.isAlive || exitCode !== 0 || stdout !== 'fine\n')
      throw new Error(`the endpoint does not serve any more: ${exitCode} ${stdout} ${stderr}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL')
    if (this.isAlive) {
      const exit = once(this.process, 'exit')
      this.process.kill('SIGKILL')
      await exit
    }
    rmSync(this.directory, { recursive: true, force: true })
  }

  async #until(condition: () => boolean): Promise<void> {
    const deadlineMs = Date.now() + 20_000
    while (!condition()) {
      if (!this.isAlive) throw new Error(`the endpoint has ended: ${this.log.join('')}`)
      if (Date.now() > deadlineMs) throw new Error(`not in time; seen: ${JSON.stringify(this.#events)}`)
      await new Promise(resolve => setTimeout(resolve, 10))
    }
  }
}

export interface Running {
  child: ChildProcessWithoutNullStreams
  /** Read from the start: Node throws away what nobody has read when a process ends. */
  outcome: Promise<Outcome>
}

/** Resolves when it has closed, whatever went before: `once` of node:events rejects at an `error`. */
export function closing(connection: ssh2.Client | Socket): Promise<void> {
  return new Promise(resolve => connection.once('close', () => resolve()))
}

async function readOutcome(child: ChildProcessWithoutNullStreams): Promise<Outcome> {
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  return { stdout, stderr, exitCode: child.exitCode }
}

interface RunOptions {
  input?: string | Buffer
  environment?: NodeJS.ProcessEnv
}

interface SshOptions extends RunOptions {
  login?: string
  /** Name of a key file in the endpoint's directory; '' for none. */
  key?: string
  options?: string[]
  port?: number
  host?: string
}

interface StartOptions {
  /** Users and the names of their key files, made here where they do not exist; alice has `alice`. */
  users?: Record<string, string[]>
  /** ssh-keygen's words for keys that are not Ed25519. */
  keyTypes?: Record<string, string[]>
  /** Key files, made here, whose certificates are taken. */
  authorities?: string[]
  /** Lines of public keys users have besides. */
  publicKeys?: Record<string, string[]>
  limits?: object
  listen?: string
}

export function makeKey(directory: string, name: string, type: string[] = ['-t', 'ed25519']): void {
  execFileSync('ssh-keygen', ['-q', ...type, '-N', '', '-C', name, '-f', join(directory, name)])
}

export async function startEndpoint(options: StartOptions = {}): Promise<Endpoint> {
  const { users = { alice: ['alice'] }, keyTypes = {}, authorities = [], limits = {} } = options
  const directory = mkdtempSync(join(tmpdir(), 'berth-ssh-'))
  for (const name of new Set([...Object.values(users).flat(), ...authorities, ...Object.keys(keyTypes), 'stranger']))
    makeKey(directory, name, keyTypes[name])
  const publicKey = (name: string) => readFileSync(join(directory, `${name}.pub`), 'utf8')
  const settings: EndpointOptions = {
    directory,
    listen: options.listen ?? '127.0.0.1',
    users: Object.entries(users).map(([name, keys]) => ({
      name,
      publicKeys: [...keys.map(publicKey), ...(options.publicKeys?.[name] ?? [])]
    })),
    userCas: authorities.map(publicKey),
    limits
  }
  const child = spawn(process.execPath, ['--expose-gc', PROGRAM], { stdio: ['pipe', 'pipe', 'pipe', 'ipc'] })
  child.stdin?.end(JSON.stringify(settings))
  const events: Event[] = []
  const ready = await new Promise<Event>((resolve, reject) => {
    child.once('message', event => resolve(event as Event))
    child.once('exit', code => reject(new Error(`the endpoint did not start: ${code} ${errors.join('')}`)))
    const errors: string[] = []
    child.stderr?.on('data', chunk => errors.push(String(chunk)))
  })
  const endpoint = new Endpoint(directory, child, ready['ports'] as Record<string, number>, events)
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', chunk => endpoint.log.push(String(chunk)))
  return endpoint
}
