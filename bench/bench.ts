import { performance } from 'node:perf_hooks'
import type { Ran, Rig } from '../test/rig.ts'

/** One comparison of berth with a peer, both measured in the same run. */
export interface Bench {
  readonly name: string
  /** What is compared, and what must hold. */
  readonly claim: string
  readonly unit: string
  /** `ratio` is berth / peer. */
  readonly limit: { readonly atMost: number } | { readonly atLeast: number }
  measure(rig: Rig, say: (line: string) => void): Promise<Figures>
}

export interface Figures {
  readonly berth: number
  readonly peer: number
  /** Further figures of the same run, by name. */
  readonly others?: Readonly<Record<string, number>>
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The value that `fraction` of all values do not exceed. */
export function percentile(values: readonly number[], fraction: number): number {
  return values.toSorted((one, other) => one - other)[Math.ceil(values.length * fraction) - 1]!
}

/** Runs something that must end with 0. @returns how long it took */
export async function time(work: () => Promise<Ran>): Promise<number> {
  const startedAtMs = performance.now()
  must(await work())
  return performance.now() - startedAtMs
}

export function must(ran: Ran): Ran {
  if (ran.code !== 0) throw new Error(`exit code ${ran.code}: ${ran.stderr || ran.stdout}`)
  return ran
}
