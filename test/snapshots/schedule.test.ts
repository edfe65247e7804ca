import { describe, expect, it } from 'vitest'
import { parseCron } from '../../src/config/cron.ts'
import { selectExpired } from '../../src/snapshots/retention.ts'
import type { SnapshotRecord } from '../../src/snapshots/snapshot-records.ts'

/** The minutes of the days from 1 to 8 November 2026, a Sunday, that a line matches: how many, and the first. */
function matches(line: string): { count: number; first: string | undefined } {
  const cron = parseCron(line)
  const minutes = Array.from({ length: 7 * 24 * 60 }, (_, index) => new Date(2026, 10, 1, 0, index))
  const found = minutes.filter(cron)
  const [first] = found
  return { count: found.length, first: first && `${first.getDate()} ${first.getHours()}:${first.getMinutes()}` }
}

describe('a crontab line', () => {
  it.each([
    ['* * * * *', 7 * 24 * 60, '1 0:0'],
    ['0 3 * * *', 7, '1 3:0'],
    ['*/15 22-23 * * *', 7 * 8, '1 22:0'],
    ['30 4 * * 1-5', 5, '2 4:30'],
    ['30 4 * * 7', 1, '1 4:30'],
    ['0 0 3 * *', 1, '3 0:0'],
    // A day by its number or by its weekday, where both are given: crontab(5).
    ['0 0 3 * 1', 2, '2 0:0'],
    ['0 0 * 12 *', 0, undefined],
    ['5,50 1 1 11 *', 2, '1 1:5']
  ])('%s', (line, count, first) => {
    expect(matches(line)).toEqual({ count, first })
  })

  it.each([
    '',
    '* * * *',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '5-2 * * * *',
    '*/0 * * * *',
    'a * * * *',
    '@daily'
  ])('refuses %j', line => {
    expect(() => parseCron(line)).toThrow(RangeError)
  })
})

describe('retention', () => {
  const record = (at: Date, scheduled = true) =>
    ({ name: at.toString(), createdAtMs: at.getTime(), scheduled }) as SnapshotRecord
  const days = (count: number) => Array.from({ length: count }, (_, ago) => new Date(2026, 10, 22 - ago, 3))

  it('keeps the newest of each of the last days and weeks', () => {
    const nights = days(40).map(at => record(at))
    const noon = record(new Date(2026, 10, 22, 12))
    const kept = new Set([...nights, noon])
    for (const expired of selectExpired([...nights, noon], { keepDaily: 3, keepWeekly: 3 })) kept.delete(expired)
    // 22 November 2026 is a Sunday: the newest of its week, as the 15th and the 8th are of theirs.
    expect(new Set([...kept].map(({ createdAtMs }) => new Date(createdAtMs).getDate()))).toEqual(
      new Set([8, 15, 20, 21, 22])
    )
    expect(kept).toContain(noon)
  })

  it("leaves the member's own alone", () => {
    const own = days(20).map(at => record(at, false))
    expect(selectExpired(own, { keepDaily: 0, keepWeekly: 0 })).toEqual([])
    expect(
      selectExpired(
        days(2).map(at => record(at)),
        { keepDaily: 0, keepWeekly: 0 }
      )
    ).toHaveLength(2)
  })
})
