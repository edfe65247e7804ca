import { createHash } from 'node:crypto'
import { formatBytes } from '../command/units.ts'
import { UserError } from '../errors.ts'
import type { PartialArchive } from './archive-directory.ts'
import { collectBuffers } from './collect-buffers.ts'
import type { ArchiveContents, Compression } from './inspect.ts'
import { createUnpacker } from './one-frame.ts'

interface WriteOptions {
  readonly compression: Compression
  readonly maxBytes: number
  readonly onProgress: (doneBytes: number) => void
}

/** Of the archive, or of what is inside it. */
const COLLECT_EVERY_BYTES = 4 * 2 ** 20

/**
 * Writes an archive as it comes, hashes it and counts what is inside. Nothing is held back: memory stays as it is.
 * @throws UserError `limit-reached` above `maxBytes`, `snapshot-failed` when it cannot be unpacked; as `archive.write`; as `body`
 */
export async function writeArchive(
  body: AsyncIterable<Buffer>,
  archive: PartialArchive,
  { compression, maxBytes, onProgress }: WriteOptions
): Promise<ArchiveContents> {
  const hash = createHash('sha256')
  let uncompressedBytes = 0
  const unpacker = createUnpacker(compression, plain => (uncompressedBytes += plain.length))
  let sizeBytes = 0
  let collectedAt = 0
  // Thrown in here, which ends the download too.
  for await (const chunk of body) {
    sizeBytes += chunk.length
    if (sizeBytes > maxBytes) throw tooLarge(maxBytes)
    const works = Promise.allSettled([archive.write(chunk), unpacker.write(chunk).catch(broken)])
    hash.update(chunk)
    for (const work of await works) if (work.status === 'rejected') throw work.reason
    if (sizeBytes + uncompressedBytes - collectedAt > COLLECT_EVERY_BYTES) {
      collectBuffers()
      collectedAt = sizeBytes + uncompressedBytes
    }
    onProgress(sizeBytes)
  }
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

const tooLarge = (maxBytes: number): UserError =>
  new UserError('limit-reached', `The archive has more than the ${formatBytes(maxBytes)} you have left.`, {
    hint: 'Remove snapshots you no longer need, or files from your container: ssh NODE-manage snapshots'
  })
