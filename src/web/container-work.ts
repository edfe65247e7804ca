import { setTimeout as sleep } from 'node:timers/promises'
import { toUserError, type UserError } from '../errors.ts'
import type { Log } from '../log.ts'

/** Much of what is asked of a container has ended by then, and the page can show the end. */
const PATIENCE_MS = 1200
const SHOWN_MS = 10 * 60_000

/** What was begun in a browser goes on without it; here its failure waits for the member to come back. */
export class ContainerWork {
  readonly #log: Log
  readonly #failures = new Map<string, { error: UserError; atMs: number }>()

  constructor(log: Log) {
    this.#log = log
  }

  /** Resolves when the work has ended or is known to take longer. */
  async begin(name: string, work: () => Promise<unknown>): Promise<void> {
    this.#failures.delete(name)
    const ended = (async () => work())().then(
      () => {},
      (thrown: unknown) => {
        const error = toUserError(thrown, name)
        if (error.reason === 'internal') this.#log.error({ err: error.cause, container: name }, 'internal error')
        this.#failures.set(name, { error, atMs: Date.now() })
      }
    )
    await Promise.race([ended, sleep(PATIENCE_MS, undefined, { ref: false })])
  }

  /** Why the last thing asked of it did not work. */
  failure(name: string): UserError | undefined {
    for (const [other, { atMs }] of this.#failures) if (atMs < Date.now() - SHOWN_MS) this.#failures.delete(other)
    return this.#failures.get(name)?.error
  }
}
