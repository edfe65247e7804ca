import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'

/** How long work tells what it is doing; `fraction` from 0 to 1 where it is known. */
export type Report = (step: string, fraction?: number) => void

export interface RunningOperation {
  readonly kind: string
  readonly startedAtMs: number
  readonly step: string | undefined
  readonly fraction: number | undefined
}

interface Entry {
  kind: string
  startedAtMs: number
  step: string | undefined
  fraction: number | undefined
  listeners: Set<Report>
  result: Promise<unknown>
}

/**
 * The journal: at most one operation per user and node at a time. An operation belongs to nobody's connection: it goes on when
 * whoever asked for it has left, and its end is written down.
 */
export class Operations {
  readonly #database: Database
  readonly #running = new Map<string, Entry>()
  #closing = false

  constructor(database: Database) {
    this.#database = database
  }

  /**
   * Runs `action` alone on the user's container on a node. The same kind asked twice joins the one that runs.
   * @throws UserError `busy` naming what runs and since when; `shutting-down`; whatever the action throws
   */
  run<T>(user: User, node: string, kind: string, report: Report, action: (report: Report) => Promise<T>): Promise<T> {
    const name = `${user.id}@${node}`
    const current = this.#running.get(name)
    if (current?.kind === kind) {
      // A promise of the same kind has the same result type: the kind decides the action.
      return this.#listen(current, report) as Promise<T>
    }
    if (current) throw this.#busy(current)
    if (this.#closing) throw new UserError('shutting-down', undefined, { hint: 'Try again in a minute.' })
    const entry: Entry = {
      kind,
      startedAtMs: Date.now(),
      step: undefined,
      fraction: undefined,
      listeners: new Set(),
      result: Promise.resolve()
    }
    const id = this.#open(user, node, entry)
    this.#running.set(name, entry)
    const tell: Report = (step, fraction) => {
      Object.assign(entry, { step, fraction })
      for (const listener of entry.listeners) listener(step, fraction)
    }
    const result = (async () => {
      let outcome = 'failed'
      try {
        const value = await action(tell)
        outcome = 'done'
        return value
      } catch (error) {
        if (error instanceof UserError) outcome = error.reason
        throw error
      } finally {
        this.#running.delete(name)
        this.#finish(id, outcome)
      }
    })()
    entry.result = result
    return this.#listen(entry, report) as Promise<T>
  }

  running(user: User, node: string): RunningOperation | undefined {
    const entry = this.#running.get(`${user.id}@${node}`)
    return entry && { kind: entry.kind, startedAtMs: entry.startedAtMs, step: entry.step, fraction: entry.fraction }
  }

  /** At start of the one process that owns the state: what a dead process left open is closed; its actions are all repeatable. */
  closeInterrupted(): number {
    return this.#database
      .prepare("UPDATE operations SET finished_at_ms = ?, outcome = 'interrupted' WHERE finished_at_ms IS NULL")
      .run(Date.now()).changes
  }

  /** Takes no new operations and waits until the running ones have ended. */
  async close(): Promise<void> {
    this.#closing = true
    await Promise.allSettled([...this.#running.values()].map(entry => entry.result))
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

  #open(user: User, node: string, entry: Entry): number {
    const { lastInsertRowid } = this.#database
      .prepare('INSERT INTO operations (user_id, node, kind, started_at_ms) VALUES (?, ?, ?, ?)')
      .run(user.id, node, entry.kind, entry.startedAtMs)
    return Number(lastInsertRowid)
  }

  #finish(id: number, outcome: string): void {
    this.#database
      .prepare('UPDATE operations SET finished_at_ms = ?, outcome = ? WHERE id = ?')
      .run(Date.now(), outcome, id)
  }

  #busy(entry: Entry): UserError {
    const seconds = Math.round((Date.now() - entry.startedAtMs) / 1000)
    const step = entry.step === undefined ? '' : ` (${entry.step})`
    return new UserError('busy', `\`${entry.kind}\` has been running for ${seconds} s${step}.`, {
      hint: 'Try again when it has ended; `status` shows it.'
    })
  }
}
