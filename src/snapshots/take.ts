import { randomUUID } from 'node:crypto'
import { z } from 'zod'
import { formatBytes, formatDuration } from '../command/units.ts'
import type { Config, NodeConfig } from '../config.ts'
import type { Parts } from '../containers/parts.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import type { Journal, Report } from '../operations/operations.ts'
import { partialName, type ArchiveDirectory } from './archive-directory.ts'
import { copyContainer } from './copy-container.ts'
import type { SnapshotRecord, SnapshotRecords } from './snapshot-records.ts'
import type { SnapshotPlan, TakeOptions } from './snapshots.ts'
import { discard } from './swap.ts'
import { temporaryName } from './temporary-names.ts'
import { within } from './within.ts'

const recordSchema = z.strictObject({
  userId: z.number(),
  node: z.string(),
  name: z.string(),
  template: z.string(),
  note: z.string(),
  scheduled: z.boolean(),
  createdAtMs: z.number(),
  sizeBytes: z.number(),
  uncompressedBytes: z.number(),
  sha256: z.string(),
  compression: z.enum(['zstd', 'gzip', 'none']),
  instance: z.string(),
  server: z.string(),
  tookMs: z.number()
})

/** A snapshot being taken, as the journal holds it. */
export const takingSchema = z.strictObject({
  /** The instance that is archived. */
  copy: z.string(),
  /** The file's name until it is whole. */
  partial: z.string(),
  directory: z.string(),
  /** Of the file that is whole. */
  record: recordSchema.optional()
})

interface TakeParts {
  readonly config: Config
  readonly parts: Parts
  readonly directory: ArchiveDirectory
  readonly records: SnapshotRecords
}

interface Taking {
  readonly user: User
  readonly node: NodeConfig
  readonly plan: SnapshotPlan
  readonly options: TakeOptions
}

/** LXD deletes by itself what a berth that never came back has left. */
const BACKUP_KEPT_MS = 7 * 24 * 3600_000
/** nodejs.org/api/timers.html: longer ones end at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

/**
 * Copy, backup, stream, publish, tidy up: each written down before it begins. Ended anywhere, the journal's resolver knows what to
 * delete, and what was whole already.
 */
export async function takeSnapshot(
  { config, parts, directory, records }: TakeParts,
  { user, node, plan, options }: Taking,
  report: Report,
  journal: Journal
): Promise<SnapshotRecord> {
  const { compression } = config.snapshots
  const startedAtMs = Date.now()
  const lxd = parts.lxdFor(node)
  const taking = {
    copy: temporaryName(user.name, 'Copy'),
    partial: partialName(journal.id),
    directory: directory.path
  }
  // First of all: a NAS that cannot be written costs nobody a minute. Without a phase yet, a stray file goes at the next start.
  const archive = await directory.create(user.name, taking.partial)
  let written
  try {
    journal.enter('copying', taking)
    report(plan.space.copiesOnWrite ? 'copying' : 'copying, file by file: the pool has no copy-on-write')
    await copyContainer(lxd, user, node, taking.copy, { onProgress: report, timeoutMs: Infinity })
    journal.enter('archiving', taking)
    journal.release()
    options.onCopied()

    report('writing the archive')
    const storing = archive.store(
      lxd.endpoint,
      { instance: taking.copy, name: randomUUID(), expiresAtMs: Date.now() + BACKUP_KEPT_MS },
      { compression, maxBytes: plan.usage.maxBytes - plan.usage.bytes },
      meter('writing the archive', plan.archiveBytes, report)
    )
    written = options.scheduled ? await inTurn(storing, plan, config.snapshots.patience) : await storing
  } finally {
    await archive.close()
  }
  const record: SnapshotRecord = {
    userId: user.id,
    node: node.name,
    name: archiveName(user, node, startedAtMs, compression),
    template: plan.template,
    note: options.note,
    scheduled: options.scheduled,
    createdAtMs: startedAtMs,
    ...written,
    compression,
    instance: taking.copy,
    server: `${plan.server.kind === 'incus' ? 'Incus' : 'LXD'} ${plan.server.version}`,
    tookMs: Date.now() - startedAtMs
  }
  journal.enter('publishing', { ...taking, record })
  await directory.publish(user.name, taking.partial, record.name)
  records.add(record)
  report('tidying up')
  await discard(lxd, taking.copy).catch((err: unknown) => {
    // The archive is safe; berth deletes the copy when it tidies the node.
    if (!(err instanceof LxdError)) throw err
    parts.log.warn({ node: node.name, user: user.name, copy: taking.copy, err }, 'a copy is left')
  })
  return record
}

/** How far an estimate may be out. */
const SLACK = 10
const UNKNOWN_MS = 3600_000

/** Others wait for their turn: a sparse file takes no room on the disk, is in no estimate, and can take weeks to archive. */
function inTurn<T>(work: Promise<T>, { tookMs = UNKNOWN_MS }: SnapshotPlan, patienceMs: number): Promise<T> {
  const limitMs = patienceMs + SLACK * tookMs
  const late = () =>
    new UserError(
      'snapshot-failed',
      `It was given up after ${formatDuration(limitMs)}; about ${formatDuration(tookMs)} were to be expected of what is on the disk.`,
      {
        hint: 'Sparse files are archived with all their zeros. When LXD has ended its part, take it by hand (snapshot), or raise snapshots.patience.'
      }
    )
  return within(work, Math.min(limitMs, MAX_TIMER_MS), late)
}

const SUFFIX = { zstd: '.tar.zst', gzip: '.tar.gz', none: '.tar' } as const

/** `alice-gpu1-20261122-221530.tar.zst`, in UTC: no two of one container are begun in the same second. */
function archiveName(user: User, node: NodeConfig, atMs: number, compression: keyof typeof SUFFIX): string {
  const stamp = new Date(atMs).toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-')
  return `${user.name}-${node.name}-${stamp}${SUFFIX[compression]}`
}

const TELL_EVERY_MS = 500

/** Tells bytes, rate and, where the total can be estimated, time left. */
function meter(what: string, totalBytes: number | undefined, report: Report): (doneBytes: number) => void {
  const startedAtMs = performance.now()
  let toldAtMs = -Infinity
  return doneBytes => {
    const now = performance.now()
    if (now - toldAtMs < TELL_EVERY_MS) return
    toldAtMs = now
    const rate = (doneBytes / Math.max(1, now - startedAtMs)) * 1000
    const done = `${what}, ${formatBytes(doneBytes)}`
    if (totalBytes === undefined) return report(`${done}, ${formatBytes(rate)}/s`)
    const leftMs = (Math.max(0, totalBytes - doneBytes) / rate) * 1000
    const left = leftMs === 0 ? '' : `, ${formatDuration(leftMs)} left`
    report(
      `${done} of about ${formatBytes(totalBytes)}, ${formatBytes(rate)}/s${left}`,
      Math.min(0.99, doneBytes / totalBytes)
    )
  }
}
