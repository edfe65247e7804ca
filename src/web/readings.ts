import { setTimeout as sleep } from 'node:timers/promises'
import { toUserError, type UserError } from '../errors.ts'

/** A page is made within 100 ms, whatever a node does. */
const PATIENCE_MS = 60
/** Shown in place of a reading that is late. */
const KEPT_MS = 30_000

export type Reading<T> =
  | { readonly value: T; readonly fault?: undefined; readonly atMs: number }
  | { readonly value?: undefined; readonly fault: UserError; readonly atMs: number }

/** What nodes say of themselves, for pages that must not wait for them: the answer if it comes at once, else the one before. */
export class Readings<T> {
  readonly #last = new Map<string, Reading<T>>()
  readonly #underWay = new Map<string, Promise<Reading<T>>>()

  /** Undefined: asked, and nothing known yet. */
  async take(name: string, read: () => Promise<T>): Promise<Reading<T> | undefined> {
    const current = this.#underWay.get(name) ?? this.#begin(name, read)
    const soon = await Promise.race([current, sleep(PATIENCE_MS, undefined, { ref: false })])
    if (soon) return soon
    const last = this.#last.get(name)
    return last && last.atMs > Date.now() - KEPT_MS ? last : undefined
  }

  /** What was read before a change is no longer so. */
  forget(name: string): void {
    this.#last.delete(name)
    this.#underWay.delete(name)
  }

  #begin(name: string, read: () => Promise<T>): Promise<Reading<T>> {
    const reading = read()
      .then(
        (value): Reading<T> => ({ value, atMs: Date.now() }),
        (error: unknown): Reading<T> => ({ fault: toUserError(error, name), atMs: Date.now() })
      )
      .then(taken => {
        if (this.#underWay.get(name) === reading) {
          this.#underWay.delete(name)
          this.#keep(name, taken)
        }
        return taken
      })
    this.#underWay.set(name, reading)
    return reading
  }

  #keep(name: string, reading: Reading<T>): void {
    this.#last.set(name, reading)
    for (const [other, { atMs }] of this.#last) if (atMs < Date.now() - KEPT_MS) this.#last.delete(other)
  }
}
