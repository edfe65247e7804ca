import type { SnapshotRecord } from './snapshot-records.ts'

interface Retention {
  readonly keepDaily: number
  readonly keepWeekly: number
}

/**
 * Which scheduled snapshots of one container have had their time: all but the newest of each of the last `keepDaily` days and
 * `keepWeekly` weeks (from Monday, local time) that have any. The members' own are never among them.
 */
export function selectExpired(
  records: readonly SnapshotRecord[],
  { keepDaily, keepWeekly }: Retention
): SnapshotRecord[] {
  const scheduled = records
    .filter(record => record.scheduled)
    .toSorted((one, other) => other.createdAtMs - one.createdAtMs)
  const kept = new Set([...newestOfEach(scheduled, dayOf, keepDaily), ...newestOfEach(scheduled, weekOf, keepWeekly)])
  return scheduled.filter(record => !kept.has(record))
}

function newestOfEach(
  newestFirst: readonly SnapshotRecord[],
  spanOf: (at: Date) => string,
  count: number
): SnapshotRecord[] {
  const newest = new Map<string, SnapshotRecord>()
  for (const record of newestFirst) {
    const span = spanOf(new Date(record.createdAtMs))
    if (!newest.has(span)) newest.set(span, record)
  }
  return [...newest.values()].slice(0, count)
}

const dayOf = (at: Date): string => `${at.getFullYear()}-${at.getMonth()}-${at.getDate()}`

const weekOf = (at: Date): string =>
  dayOf(new Date(at.getFullYear(), at.getMonth(), at.getDate() - ((at.getDay() + 6) % 7)))
