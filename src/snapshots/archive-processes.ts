import { fork, type ChildProcess } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { unpackFault, type Answer, type Call } from './archive-calls.ts'
import { unavailable } from './archive-files.ts'
import type { Calls } from './archive-process.ts'

type Arguments<Name extends keyof Calls> =
  Parameters<Calls[Name]> extends [...infer Given, (doneBytes: number, isLast?: boolean) => void]
    ? Given
    : Parameters<Calls[Name]>
type Value<Name extends keyof Calls> = Awaited<ReturnType<Calls[Name]>>
type OnProgress = (doneBytes: number) => void

type Environment = Readonly<NodeJS.ProcessEnv>

interface Waiting {
  readonly settle: (answer: Extract<Answer, { value: unknown }>) => void
  readonly fail: (error: Error) => void
  readonly onProgress: OnProgress | undefined
}

const MAIN = new URL('./archive-process.ts', import.meta.url)
/** What it makes is short-lived and small; V8 would let 16 MiB of it gather, in each of two halves (node --v8-options). */
const SMALL_HEAP = ['--max-semi-space-size=1']
/** For a process that is killed to go: it may still be in a call that the NAS answers slowly. */
const KILL_MS = 2000

/** A process in which files on the NAS are used; it dies with berth, or when `end` is called. */
export class ArchiveProcess {
  readonly ended: Promise<void>
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  readonly #onSilence: (process: ArchiveProcess) => void
  #calls = 0

  constructor(path: string, environment: Environment, onSilence: (process: ArchiveProcess) => void) {
    this.#onSilence = onSilence
    // Standard output is berth's log.
    const stdio = ['ignore', 'ignore', 'inherit', 'ipc'] as const
    // Each of its threads would keep freed buffers in an arena of its own (mallopt(3)): measured, 11 MiB for one archive.
    const env = { ...environment, MALLOC_ARENA_MAX: '1' }
    this.#child = fork(MAIN, [path], { serialization: 'advanced', execArgv: SMALL_HEAP, env, stdio: [...stdio] })
    this.ended = new Promise(resolve => {
      this.#child.once('exit', () => resolve()).once('error', () => resolve())
    })
    void this.ended.then(() => this.#giveUp(new Error('the process for archives has ended')))
    this.#child.on('message', (answer: Answer) => this.#receive(answer))
    // Only what is being waited for keeps berth from ending.
    this.#child.unref()
    this.#child.channel?.unref()
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined
  }

  get isIdle(): boolean {
    return !this.hasEnded && this.#waiting.size === 0
  }

  /** @throws whatever the call throws there */
  async call<Name extends keyof Calls>(
    name: Name,
    args: Arguments<Name>,
    onProgress?: OnProgress
  ): Promise<Value<Name>> {
    const id = ++this.#calls
    const { promise, resolve, reject } = Promise.withResolvers<Extract<Answer, { value: unknown }>>()
    this.#waiting.set(id, { settle: resolve, fail: reject, onProgress })
    this.#child.channel?.ref()
    try {
      this.#child.send({ id, name, args } satisfies Call, error => error && reject(error))
      return (await promise).value as Value<Name>
    } finally {
      this.#waiting.delete(id)
      if (this.#waiting.size === 0) this.#child.channel?.unref()
    }
  }

  /** Ends it whatever it is at, and waits a moment: a file is only free when nobody has it open. */
  async end(): Promise<void> {
    this.#child.kill('SIGKILL')
    await Promise.race([this.ended, sleep(KILL_MS, undefined, { ref: false })])
  }

  #receive(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id)
    if (!waiting) return
    if ('doneBytes' in answer) return waiting.onProgress?.(answer.doneBytes)
    if ('value' in answer) return waiting.settle(answer)
    const error = unpackFault(answer.fault)
    waiting.fail(error)
    if (answer.fault.kind !== 'user' || !answer.fault.isSilence) return
    this.#giveUp(error)
    this.#child.kill('SIGKILL')
    this.#onSilence(this)
  }

  #giveUp(error: Error): void {
    for (const { fail } of this.#waiting.values()) fail(error)
  }
}

/** All processes for one directory. */
export class ArchiveProcesses {
  readonly #path: string
  readonly #environment: Environment
  #shared: ArchiveProcess | undefined
  /** Killed, and not gone as long as the NAS does not let go of them. */
  readonly #stuck = new Set<ArchiveProcess>()

  constructor(path: string, environment: Environment) {
    this.#path = path
    this.#environment = environment
  }

  /** The one for all that is short. @throws UserError `snapshots-unavailable` */
  get shared(): ArchiveProcess {
    if (!this.#shared || this.#shared.hasEnded || this.#stuck.has(this.#shared)) this.#shared = this.#fork()
    return this.#shared
  }

  /**
   * One for what is long; the caller gives it back, or ends it where the work failed. The one for all that is short, when it has
   * nothing to do: another takes most of a second.
   * @throws UserError `snapshots-unavailable` while the NAS keeps an earlier one
   */
  start(): ArchiveProcess {
    const shared = this.#shared
    if (shared?.isIdle && this.#stuck.size === 0) {
      this.#shared = undefined
      return shared
    }
    return this.#fork()
  }

  /** One that has done its work serves for all that is short, unless there is another by now. */
  async giveBack(process: ArchiveProcess): Promise<void> {
    if (this.#shared?.hasEnded === false) await process.end()
    else this.#shared = process
  }

  #fork(): ArchiveProcess {
    if (this.#stuck.size > 0) throw unavailable(this.#path, 'the NAS does not answer')
    return new ArchiveProcess(this.#path, this.#environment, silent => {
      this.#stuck.add(silent)
      void silent.ended.then(() => this.#stuck.delete(silent))
    })
  }
}
