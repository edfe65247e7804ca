import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import {
  deleteRows,
  finishRow,
  insertRow,
  listRows,
  noteFault,
  openRows,
  writeLane,
  writePhase,
  type OpenRow,
  type OperationRow
} from './journal-rows.ts'

/** How long work tells what it is doing; `fraction` from 0 to 1 where it is known. */
export type Report = (step: string, fraction?: number) => void

export interface RunningOperation {
  readonly kind: string
  readonly startedAtMs: number
  readonly step: string | undefined
  readonly fraction: number | undefined
}

/** What an action writes down while it runs, so that what a crash leaves can be put right. */
export interface Journal {
  readonly id: number
  /** Before a step that cannot be taken back, or that leaves something behind when it is not followed by the next. */
  enter(phase: string, details?: object): void
  /** Others may have the container from here on: what was needed of it has been taken. */
  release(): void
}

/** An operation that ended, by a crash or a failure, after it had entered a phase. */
export interface InterruptedOperation {
  readonly id: number
  readonly userId: number
  readonly node: string
  readonly kind: string
  readonly startedAtMs: number
  readonly phase: string
  /** As the action wrote it. */
  readonly details: unknown
}

/**
 * Puts right what an interrupted operation left, deciding by what is there.
 * @returns its outcome in a word or two @throws when that cannot be done now; it is tried again
 */
export type Resolver = (operation: InterruptedOperation, report: Report) => Promise<string>

export interface RunOptions {
  /** Whoever asks for the same kind meanwhile joins the one that runs; true unless said. */
  readonly join?: boolean
  /** Waits for no archive that is still being written either. */
  readonly alsoArchive?: boolean
}

type Lane = 'container' | 'archive'

interface Entry {
  readonly id: number
  readonly name: string
  readonly kind: string
  readonly startedAtMs: number
  lane: Lane
  /** Everything written down of it; undefined while nothing has to be put right. */
  interruptible: InterruptedOperation | undefined
  isInterrupted: boolean
  step: string | undefined
  fraction: number | undefined
  readonly listeners: Set<Report>
  result: Promise<unknown>
}

/** How long somebody who is told of a failure waits for what it left to be put right. */
const SETTLE_MS = 5000
const RETRY_MS = { first: 1000, last: 30_000 }

/**
 * The journal: at most one operation per user and node at a time. An operation belongs to nobody's connection: it goes on when
 * whoever asked for it has left, and its end is written down. One that entered a phase and did not reach its end keeps its
 * container, across restarts, until its resolver has put things right.
 */
export class Operations {
  readonly #database: Database
  readonly #running: Record<Lane, Map<string, Entry>> = { container: new Map(), archive: new Map() }
  readonly #resolvers = new Map<string, Resolver>()
  readonly #closing = new AbortController()

  constructor(database: Database) {
    this.#database = database
  }

  /** Who puts right what interrupted operations of that kind left. */
  resolveWith(kind: string, resolver: Resolver): void {
    this.#resolvers.set(kind, resolver)
  }

  /**
   * Runs `action` alone on the user's container on a node.
   * @throws UserError `busy` naming what runs and since when; `shutting-down`; whatever the action throws
   */
  run<T>(
    user: User,
    node: string,
    kind: string,
    report: Report,
    action: (report: Report, journal: Journal) => Promise<T>,
    { join = true, alsoArchive = false }: RunOptions = {}
  ): Promise<T> {
    const name = nameOf(user.id, node)
    const current = this.#running.container.get(name) ?? (alsoArchive ? this.#running.archive.get(name) : undefined)
    if (join && current?.kind === kind && !current.isInterrupted) {
      // A promise of the same kind has the same result type: the kind decides the action.
      return this.#listen(current, report) as Promise<T>
    }
    if (current) throw busy(current)
    if (this.#closing.signal.aborted)
      throw new UserError('shutting-down', undefined, { hint: 'Try again in a minute.' })
    const startedAtMs = Date.now()
    const id = insertRow(this.#database, { userId: user.id, node, kind, startedAtMs })
    const entry = newEntry({ id, userId: user.id, node, kind, startedAtMs }, 'container')
    this.#running.container.set(name, entry)
    const journal: Journal = {
      id,
      enter: (phase, details = {}) => {
        writePhase(this.#database, id, phase, details)
        entry.interruptible = { id, userId: user.id, node, kind, startedAtMs, phase, details }
      },
      release: () => {
        writeLane(this.#database, id, 'archive')
        this.#running.container.delete(name)
        this.#running.archive.set(name, Object.assign(entry, { lane: 'archive' as const }))
      }
    }
    const result = (async () => {
      try {
        const value = await action(tellListeners(entry), journal)
        this.#finish(entry, 'done')
        return value
      } catch (error) {
        const outcome = error instanceof UserError ? error.reason : 'failed'
        if (!entry.interruptible) this.#finish(entry, outcome)
        else {
          // What nobody foresaw is for the log alone.
          entry.step = `given up, and being put right${error instanceof UserError ? `: ${error.message}` : ''}`
          const settling = this.#settle(entry, outcome)
          entry.result = settling
          await Promise.race([settling, sleep(SETTLE_MS, undefined, { ref: false })])
        }
        throw error
      }
    })()
    entry.result = result
    return this.#listen(entry, report) as Promise<T>
  }

  /** What has the container now. */
  running(user: User, node: string): RunningOperation | undefined {
    return describe(this.#running.container.get(nameOf(user.id, node)))
  }

  /** What still writes an archive of the container, which itself is free. */
  archiving(user: User, node: string): RunningOperation | undefined {
    return describe(this.#running.archive.get(nameOf(user.id, node)))
  }

  /**
   * Follows what runs on the container, if it is of one of these kinds, to its end.
   * @returns false when none of them runs @throws whatever it throws; UserError `busy` for one that was interrupted
   */
  async follow(user: User, node: string, kinds: readonly string[], report: Report): Promise<boolean> {
    const name = nameOf(user.id, node)
    const entry = [this.#running.container.get(name), this.#running.archive.get(name)].find(
      candidate => candidate && kinds.includes(candidate.kind)
    )
    if (!entry) return false
    // Its end may be far away: what it waits for is told instead.
    if (entry.isInterrupted) throw busy(entry)
    await this.#listen(entry, report)
    return true
  }

  /** @throws UserError `busy` while the operation that has the container is in that phase, or was interrupted in it */
  refuseDuring(phase: string, user: User, node: string): void {
    const entry = this.#running.container.get(nameOf(user.id, node))
    if (entry?.interruptible?.phase === phase) throw busy(entry)
  }

  /** How far an operation is that has not ended. */
  stepOf(id: number): RunningOperation | undefined {
    const all = [...this.#running.container.values(), ...this.#running.archive.values()]
    return describe(all.find(entry => entry.id === id))
  }

  /** What has not ended, and the newest `limit` of those that have; newest first. */
  list(limit: number): (OperationRow & { step: string | undefined })[] {
    return listRows(this.#database, limit).map(row => ({ ...row, step: this.stepOf(row.id)?.step }))
  }

  /** Deletes what ended before that. */
  forget(beforeMs: number): void {
    deleteRows(this.#database, beforeMs)
  }

  /**
   * At start of the one process that owns the state: of what a dead process left open, the repeatable is closed, and the rest
   * keeps its container until it is resolved.
   * @returns how many there were of each
   */
  takeOver(): { closed: number; unresolved: number } {
    let closed = 0
    let unresolved = 0
    for (const row of openRows(this.#database)) {
      if (row.phase === undefined) {
        finishRow(this.#database, row.id, 'interrupted')
        closed++
      } else {
        this.#reopen({ ...row, phase: row.phase })
        unresolved++
      }
    }
    return { closed, unresolved }
  }

  /** Has everything that was taken over put right, all at once; what cannot be now is tried again while this process lives. */
  resolveInterrupted(): void {
    for (const running of Object.values(this.#running)) {
      for (const entry of running.values()) {
        if (entry.isInterrupted) entry.result = this.#settle(entry, 'interrupted')
      }
    }
  }

  /** Takes no new operations and waits until the running ones have ended. */
  async close(): Promise<void> {
    this.#closing.abort()
    const entries = Object.values(this.#running).flatMap(running => [...running.values()])
    await Promise.allSettled(entries.map(entry => entry.result))
  }

  #reopen({ lane, ...row }: OpenRow & { phase: string }): void {
    const entry = newEntry(row, lane)
    Object.assign(entry, { interruptible: row, isInterrupted: true, step: 'interrupted: it is being put right' })
    this.#running[lane].set(entry.name, entry)
  }

  async #settle(entry: Entry, outcome: string): Promise<void> {
    const operation = entry.interruptible as InterruptedOperation
    const tell = tellListeners(entry)
    tell(entry.step ?? 'putting things right')
    entry.isInterrupted = true
    for (let pauseMs = RETRY_MS.first; ; pauseMs = Math.min(pauseMs * 2, RETRY_MS.last)) {
      try {
        const resolver = this.#resolvers.get(entry.kind)
        if (!resolver) throw new Error(`this berth knows no \`${entry.kind}\``)
        const resolution = await resolver(operation, tell)
        this.#finish(entry, `${outcome}: ${resolution}`)
        return
      } catch (error) {
        noteFault(this.#database, entry.id, (error as Error).message)
        entry.step = `interrupted, and not yet put right: ${(error as Error).message}`
      }
      try {
        await sleep(pauseMs, undefined, { signal: this.#closing.signal, ref: false })
      } catch {
        return
      }
    }
  }

  async #listen(entry: Entry, report: Report): Promise<unknown> {
    entry.listeners.add(report)
    if (entry.step !== undefined) report(entry.step, entry.fraction)
    try {
      return await entry.result
    } finally {
      entry.listeners.delete(report)
    }
  }

  #finish(entry: Entry, outcome: string): void {
    finishRow(this.#database, entry.id, outcome)
    this.#running[entry.lane].delete(entry.name)
  }
}

const nameOf = (userId: number, node: string): string => `${userId}@${node}`

function newEntry(
  row: Pick<InterruptedOperation, 'id' | 'userId' | 'node' | 'kind' | 'startedAtMs'>,
  lane: Lane
): Entry {
  return {
    id: row.id,
    name: nameOf(row.userId, row.node),
    kind: row.kind,
    startedAtMs: row.startedAtMs,
    lane,
    interruptible: undefined,
    isInterrupted: false,
    step: undefined,
    fraction: undefined,
    listeners: new Set(),
    result: Promise.resolve()
  }
}

const tellListeners =
  (entry: Entry): Report =>
  (step, fraction) => {
    Object.assign(entry, { step, fraction })
    for (const listener of entry.listeners) listener(step, fraction)
  }

function describe(entry: Entry | undefined): RunningOperation | undefined {
  return entry && { kind: entry.kind, startedAtMs: entry.startedAtMs, step: entry.step, fraction: entry.fraction }
}

function busy(entry: Entry): UserError {
  const seconds = Math.round((Date.now() - entry.startedAtMs) / 1000)
  const step = entry.step === undefined ? '' : ` (${entry.step})`
  return new UserError('busy', `\`${entry.kind}\` has been running for ${seconds} s${step}.`, {
    hint: 'Try again when it has ended; `status` shows it.'
  })
}
