import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { UserError } from '../errors.ts'
import type { PartialArchive } from './archive-directory.ts'
import type { Compression } from './inspect.ts'

export interface WrittenArchive {
  readonly sizeBytes: number
  readonly uncompressedBytes: number
  /** 64 hexadecimal digits, of what was written. */
  readonly sha256: string
}

interface WriteOptions {
  readonly compression: Compression
  /** Its size as the server tells it beforehand. */
  readonly expectedBytes: number | undefined
  /** More is refused while it comes. */
  readonly maxBytes: number
  readonly onProgress: (doneBytes: number) => void
}

/**
 * Writes an archive as it comes, hashes it and counts what is inside. Nothing is held back: memory stays as it is.
 * @throws UserError `limit-reached` above `maxBytes`, `snapshot-failed` when it is not whole; as `archive.write`; as `body`
 */
export async function writeArchive(
  body: Readable,
  archive: PartialArchive,
  { compression, expectedBytes, maxBytes, onProgress }: WriteOptions
): Promise<WrittenArchive> {
  const hash = createHash('sha256')
  const counter = countInside(compression)
  let sizeBytes = 0
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      sizeBytes += chunk.length
      if (sizeBytes > maxBytes) throw tooLarge(maxBytes)
      const settled = await Promise.allSettled([archive.write(chunk), counter.feed(chunk), hash.update(chunk)])
      for (const { reason } of settled.filter(({ status }) => status === 'rejected') as PromiseRejectedResult[])
        throw reason
      onProgress(sizeBytes)
    }
    if (expectedBytes !== undefined && sizeBytes !== expectedBytes) throw broken('it ended early')
    const uncompressedBytes = await counter.end()
    await archive.flush()
    return { sizeBytes, uncompressedBytes, sha256: hash.digest('hex') }
  } finally {
    body.destroy()
    counter.destroy()
  }
}

interface Counter {
  feed(chunk: Buffer): Promise<void>
  /** @returns bytes inside @throws UserError `snapshot-failed` when the compression does not end where the archive does */
  end(): Promise<number>
  destroy(): void
}

function countInside(compression: Compression): Counter {
  let bytes = 0
  if (compression === 'none') {
    const feed = async (chunk: Buffer) => void (bytes += chunk.length)
    return { feed, end: async () => bytes, destroy: () => {} }
  }
  const decoder = compression === 'zstd' ? createZstdDecompress() : createGunzip()
  decoder.on('data', (chunk: Buffer) => (bytes += chunk.length))
  const ended = finished(decoder).catch((cause: Error) => {
    throw broken(cause.message, cause)
  })
  ended.catch(() => {})
  return {
    feed: chunk =>
      Promise.race([ended, new Promise<void>(resolve => decoder.write(chunk, error => error ?? resolve()))]),
    async end() {
      decoder.end()
      await ended
      return bytes
    },
    destroy: () => decoder.destroy()
  }
}

const broken = (what: string, cause?: unknown): UserError =>
  new UserError('snapshot-failed', `What LXD sent is no whole archive: ${what}.`, {
    hint: 'Try again; your container and your other snapshots are as they were.',
    cause
  })

const tooLarge = (maxBytes: number): UserError =>
  new UserError('limit-reached', `The archive would be larger than the ${maxBytes} bytes you have left.`, {
    hint: 'Remove snapshots you no longer need, or files from your container: ssh NODE-manage snapshots'
  })
