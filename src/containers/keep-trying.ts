import { setTimeout as sleep } from 'node:timers/promises'
import { isNodeSilent } from './translate.ts'

/** A node that is away is asked every ten seconds; one that refuses, less and less often. */
const RETRY_MS = { first: 10_000, last: 5 * 60_000 }

/** Whether it failed because the node does not answer, in LXD's words or in ours. */
export const isAway = (error: unknown): boolean => isNodeSilent(error) || isNodeSilent((error as Error).cause)

/**
 * Does what is to be done on a node, again and again until it is `done` or `signal`. `onFault` hears of each failure, but only of the
 * first while a node is away.
 */
export async function keepTrying(
  attempt: () => Promise<'done' | 'again'>,
  onFault: (error: unknown) => void,
  signal: AbortSignal
): Promise<void> {
  let wasAway = false
  for (let pauseMs = RETRY_MS.first; !signal.aborted;) {
    try {
      if ((await attempt()) === 'done') return
      wasAway = false
      pauseMs = RETRY_MS.first
    } catch (error) {
      if (signal.aborted) return
      const away = isAway(error)
      if (!(away && wasAway)) onFault(error)
      wasAway = away
      pauseMs = away ? RETRY_MS.first : Math.min(2 * pauseMs, RETRY_MS.last)
    }
    await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => {})
  }
}
