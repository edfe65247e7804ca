import { createHash } from 'node:crypto'
import { formatBytes } from '../command/units.ts'
import { UserError } from '../errors.ts'
import type { PartialArchive } from './archive-files.ts'
import { ArchiveLayout } from './archive-layout.ts'
import { checkArchiveYaml } from './archive-yaml.ts'
import { collectBuffers } from './collect-buffers.ts'
import type { ArchiveContents, Compression } from './inspect.ts'
import { createUnpacker } from './one-frame.ts'
import { TarReader } from './tar-reader.ts'

export interface WriteOptions {
  readonly compression: Compression
  /** Of the instance that is archived. */
  readonly instance: string
  readonly maxBytes: number
  readonly onProgress: (doneBytes: number) => void
}

const COLLECT_EVERY_BYTES = 4 * 2 ** 20

/**
 * Writes an archive as it comes, hashes it and inspects it as its recovery will. Nothing is held back: memory stays as it is.
 * @throws UserError `limit-reached` above `maxBytes`, `snapshot-failed` when it could not be recovered; as `archive.write`; as `body`
 */
export async function writeArchive(
  body: AsyncIterable<Buffer>,
  archive: PartialArchive,
  { compression, instance, maxBytes, onProgress }: WriteOptions
): Promise<ArchiveContents> {
  const hash = createHash('sha256')
  const layout = new ArchiveLayout((path, content) => checkArchiveYaml(path, content, instance))
  const tar = new TarReader(layout.visit)
  const unpacker = createUnpacker(compression, plain => tar.push(plain))
  let sizeBytes = 0
  let collectedAt = 0
  // Thrown in here, which ends the download too.
  for await (const chunk of body) {
    sizeBytes += chunk.length
    if (sizeBytes > maxBytes) throw tooLarge(maxBytes)
    const works = Promise.allSettled([archive.write(chunk), unpacker.write(chunk).catch(broken)])
    hash.update(chunk)
    for (const work of await works) if (work.status === 'rejected') throw work.reason
    if (sizeBytes - collectedAt > COLLECT_EVERY_BYTES) {
      collectBuffers()
      collectedAt = sizeBytes
    }
    onProgress(sizeBytes)
  }
  await unpacker
    .end()
    .then(() => {
      tar.end()
      layout.end()
    })
    .catch(broken)
  await archive.finish()
  return { sizeBytes, uncompressedBytes: tar.sizeBytes, sha256: hash.digest('hex') }
}

function broken(cause: Error): never {
  throw new UserError('snapshot-failed', `What LXD sent could not be recovered: ${cause.message}`, {
    hint: 'Your container and your other snapshots are as they were. Try again; if it stays so, please tell your admin.',
    cause
  })
}

const tooLarge = (maxBytes: number): UserError =>
  new UserError('limit-reached', `The archive has more than the ${formatBytes(maxBytes)} you have left.`, {
    hint: 'Remove snapshots you no longer need, or files from your container: ssh NODE-manage snapshots'
  })
