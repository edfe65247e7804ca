import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { formatBytes } from '../command/units.ts'
import { UserError } from '../errors.ts'
import type { PartialArchive } from './archive-files.ts'
import { collectYoung } from './collect-young.ts'
import type { ArchiveContents, Compression } from './inspect.ts'
import { createUnpacker } from './one-frame.ts'

export interface WriteOptions {
  readonly compression: Compression
  /** Its size as the server tells it beforehand. */
  readonly sizeBytes: number
  /** More is refused before it comes. */
  readonly maxBytes: number
  readonly onProgress: (doneBytes: number) => void
}

/** Of the archive, or of what is inside it. */
const COLLECT_EVERY_BYTES = 4 * 2 ** 20

/**
 * Writes an archive as it comes, hashes it and counts what is inside. Nothing is held back: memory stays as it is.
 * @throws UserError `limit-reached` above `maxBytes`, `snapshot-failed` when it is not whole; as `archive.write`; as `body`
 */
export async function writeArchive(
  body: Readable,
  archive: PartialArchive,
  { compression, sizeBytes, maxBytes, onProgress }: WriteOptions
): Promise<ArchiveContents> {
  const hash = createHash('sha256')
  let uncompressedBytes = 0
  const unpacker = createUnpacker(compression, sizeBytes, plain => (uncompressedBytes += plain.length))
  let doneBytes = 0
  let collectedAt = 0
  // Thrown in here, which ends the download too.
  for await (const chunk of body as AsyncIterable<Buffer>) {
    if (sizeBytes > maxBytes) throw tooLarge(sizeBytes, maxBytes)
    doneBytes += chunk.length
    const works = Promise.allSettled([archive.write(chunk), unpacker.write(chunk).catch(broken)])
    hash.update(chunk)
    for (const work of await works) if (work.status === 'rejected') throw work.reason
    if (doneBytes + uncompressedBytes - collectedAt > COLLECT_EVERY_BYTES) {
      collectYoung()
      collectedAt = doneBytes + uncompressedBytes
    }
    onProgress(doneBytes)
  }
  if (doneBytes !== sizeBytes) broken(new Error(`it ended after ${doneBytes} of ${sizeBytes} bytes`))
  await unpacker.end().catch(broken)
  await archive.flush()
  return { sizeBytes, uncompressedBytes, sha256: hash.digest('hex') }
}

function broken(cause: Error): never {
  throw new UserError('snapshot-failed', `What LXD sent is no whole archive: ${cause.message}`, {
    hint: 'Try again; your container and your other snapshots are as they were.',
    cause
  })
}

const tooLarge = (sizeBytes: number, maxBytes: number): UserError =>
  new UserError(
    'limit-reached',
    `The archive has ${formatBytes(sizeBytes)}, and you have ${formatBytes(maxBytes)} left.`,
    { hint: 'Remove snapshots you no longer need, or files from your container: ssh NODE-manage snapshots' }
  )
