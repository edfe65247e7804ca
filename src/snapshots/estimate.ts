import type { Compression } from './inspect.ts'
import type { SnapshotRecord } from './snapshot-records.ts'

/** What a snapshot will come to; undefined: nothing tells. */
export interface Estimate {
  readonly archiveBytes: number | undefined
  readonly tookMs: number | undefined
}

/** Before there is an earlier snapshot to go by: part of the size on disk, and bytes on disk a second. */
const USUAL: Record<Compression, { ratio: number; rate: number }> = {
  zstd: { ratio: 0.45, rate: 60e6 },
  gzip: { ratio: 0.42, rate: 15e6 },
  none: { ratio: 1.05, rate: 80e6 }
}

/** An image is compressed by about so much. */
const IMAGE_RATIO = 0.4

/**
 * Goes by the user's newest snapshot of the same kind, wherever it was taken.
 * @param imageBytes of the image the container shares its first blocks with, which is in the archive too
 */
export function estimate(
  usedBytes: number | undefined,
  imageBytes: number,
  compression: Compression,
  records: readonly SnapshotRecord[]
): Estimate {
  const known = records.find(record => record.compression === compression && record.uncompressedBytes > 0)
  const bytes = usedBytes === undefined ? known?.uncompressedBytes : usedBytes + imageBytes / IMAGE_RATIO
  if (bytes === undefined) return { archiveBytes: undefined, tookMs: undefined }
  const { ratio, rate } = known
    ? { ratio: known.sizeBytes / known.uncompressedBytes, rate: (known.uncompressedBytes / known.tookMs) * 1000 }
    : USUAL[compression]
  return { archiveBytes: Math.ceil(bytes * ratio), tookMs: Math.ceil((bytes / rate) * 1000) }
}
