import { siteOf } from '../command/address.ts'

/** How many may knock, and how often. Times in milliseconds. */
export interface GateLimits {
  /** Unauthenticated connections per address: dropped at random from `begin` on, all from `full` on (sshd_config(5), MaxStartups). */
  readonly perAddress: Startups
  readonly overall: Startups
  readonly failures: number
  readonly failureWindowMs: number
  readonly banMs: number
  /** An address that logged in this recently is never banned: a whole lab may sit behind it. */
  readonly trustMs: number
}

interface Startups {
  readonly begin: number
  readonly ratePercent: number
  readonly full: number
}

export const GATE_LIMITS: GateLimits = {
  perAddress: { begin: 10, ratePercent: 30, full: 60 },
  overall: { begin: 200, ratePercent: 30, full: 1000 },
  failures: 10,
  failureWindowMs: 10 * 60_000,
  banMs: 10 * 60_000,
  trustMs: 60 * 60_000
}

/** A banned address still hears why, one visitor at a time. */
const BANNED_VISITORS = 1
const REMEMBERED_ADDRESSES = 10_000

interface Record {
  /** Connections that have not logged in yet. */
  waiting: number
  failedAtMs: number[]
  bannedUntilMs: number
  loggedInAtMs: number
}

/** Decides at the door, before any cryptography. Holds no clock and no dice: both are handed in. */
export class Gate {
  readonly #limits: GateLimits
  readonly #random: () => number
  readonly #records = new Map<string, Record>()
  #waiting = 0

  constructor(limits: GateLimits, random: () => number = Math.random) {
    this.#limits = limits
    this.#random = random
  }

  /** Whether a new connection may go on; one that may is counted until `settle`. */
  admit(address: string, nowMs: number): boolean {
    const record = this.#record(address, nowMs)
    const crowded =
      this.bannedUntilMs(address, nowMs) !== undefined
        ? record.waiting >= BANNED_VISITORS
        : this.#dropped(record.waiting, this.#limits.perAddress) || this.#dropped(this.#waiting, this.#limits.overall)
    if (crowded) return false
    record.waiting++
    this.#waiting++
    return true
  }

  /** An admitted connection has logged in or is gone. */
  settle(address: string): void {
    const record = this.#records.get(siteOf(address))
    if (record) record.waiting--
    this.#waiting--
  }

  loggedIn(address: string, nowMs: number): void {
    this.#record(address, nowMs).loggedInAtMs = nowMs
  }

  /** A wrong signature, password or the like; questions about unsigned keys are no failures. */
  failed(address: string, nowMs: number): void {
    const record = this.#record(address, nowMs)
    const { failures, failureWindowMs, banMs } = this.#limits
    record.failedAtMs = [...record.failedAtMs.filter(atMs => atMs > nowMs - failureWindowMs), nowMs].slice(-failures)
    if (record.failedAtMs.length >= failures) record.bannedUntilMs = nowMs + banMs
  }

  bannedUntilMs(address: string, nowMs: number): number | undefined {
    const record = this.#records.get(siteOf(address))
    if (!record || record.bannedUntilMs <= nowMs) return undefined
    return record.loggedInAtMs > nowMs - this.#limits.trustMs ? undefined : record.bannedUntilMs
  }

  #dropped(waiting: number, { begin, ratePercent, full }: Startups): boolean {
    if (waiting < begin) return false
    if (waiting >= full) return true
    return this.#random() * 100 < ratePercent + ((100 - ratePercent) * (waiting - begin)) / (full - begin)
  }

  #record(address: string, nowMs: number): Record {
    const key = siteOf(address)
    let record = this.#records.get(key)
    if (!record) {
      if (this.#records.size >= REMEMBERED_ADDRESSES) this.#forget(nowMs)
      record = { waiting: 0, failedAtMs: [], bannedUntilMs: 0, loggedInAtMs: -Infinity }
      this.#records.set(key, record)
    }
    return record
  }

  /** Drops what no longer matters; if that is not enough, the oldest addresses without a connection. */
  #forget(nowMs: number): void {
    const { trustMs, failureWindowMs } = this.#limits
    for (const [key, { waiting, bannedUntilMs, loggedInAtMs, failedAtMs }] of this.#records) {
      const stale =
        bannedUntilMs <= nowMs &&
        loggedInAtMs <= nowMs - trustMs &&
        (failedAtMs.at(-1) ?? -Infinity) <= nowMs - failureWindowMs
      if (waiting === 0 && stale) this.#records.delete(key)
    }
    // A good many at once: going through all of them for each new address would itself be the denial of service.
    for (const [key, { waiting }] of this.#records) {
      if (this.#records.size <= REMEMBERED_ADDRESSES * 0.9) return
      if (waiting === 0) this.#records.delete(key)
    }
  }
}
