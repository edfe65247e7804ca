import type { Config } from '../config.ts'
import { formatBytes } from '../command/units.ts'
import { UserError } from '../errors.ts'
import type { SnapshotRecord } from './snapshot-records.ts'

export interface Usage {
  /** Taken by the member; scheduled ones come and go by themselves. */
  readonly count: number
  readonly maxCount: number
  /** Of all, scheduled ones too. */
  readonly bytes: number
  /** `Infinity` for unlimited. */
  readonly maxBytes: number
}

/** `underway`: snapshots of the same user that are being taken on other nodes. */
export function readUsage(
  { keepPerUser, maxBytesPerUser }: Config['snapshots'],
  records: readonly SnapshotRecord[],
  underway: number
): Usage {
  return {
    count: records.filter(({ scheduled }) => !scheduled).length + underway,
    maxCount: keepPerUser,
    bytes: records.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    maxBytes: maxBytesPerUser === 'unlimited' ? Infinity : maxBytesPerUser
  }
}

/** @throws UserError `limit-reached` naming what could be removed */
export function refuseAboveLimits(
  { count, maxCount, bytes, maxBytes }: Usage,
  records: readonly SnapshotRecord[],
  archiveBytes: number,
  { node, scheduled }: { node: string; scheduled: boolean }
): void {
  const oldest = records.toReversed()
  const remove = (named: SnapshotRecord | undefined) =>
    named === undefined
      ? 'Ask your admin for a higher limit.'
      : `Remove one, for instance the oldest: ssh ${node}-manage snapshots remove ${named.name}`
  if (!scheduled && count >= maxCount) {
    const own = oldest.filter(record => !record.scheduled)
    const names = own.map(({ name, sizeBytes }) => `${name} (${formatBytes(sizeBytes)})`).join(', ')
    throw new UserError('limit-reached', `You have ${count} of ${maxCount} snapshots: ${names}.`, {
      hint: remove(own[0])
    })
  }
  if (bytes + archiveBytes <= maxBytes) return
  const names = oldest.map(({ name, sizeBytes }) => `${name} (${formatBytes(sizeBytes)})`).join(', ')
  throw new UserError(
    'limit-reached',
    `Your snapshots take ${formatBytes(bytes)} of ${formatBytes(maxBytes)}, and this one would take about ${formatBytes(archiveBytes)} more${names && `: ${names}`}.`,
    { hint: remove(oldest[0]) }
  )
}
