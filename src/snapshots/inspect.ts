import type { Readable } from 'node:stream'

export type Compression = 'zstd' | 'gzip' | 'none'

/** What the row of a snapshot says of its archive, and what it must therefore turn out to be. */
export interface ExpectedArchive {
  /** Of the file as it lies on the disk: 64 hexadecimal digits. */
  readonly sha256: string
  readonly sizeBytes: number
  /** Of the tar inside. */
  readonly uncompressedBytes: number
  readonly compression: Compression
  /** Name of the instance that was exported: a temporary one where a copy was taken. */
  readonly instanceName: string
}

/** What an approved archive holds. */
export interface ArchiveContents {
  readonly sizeBytes: number
  readonly uncompressedBytes: number
  /** Files the server would rewrite at a start (LXD's templates): their names below `templates/` and SHA-256 in hexadecimal digits. */
  readonly templates: ReadonlyMap<string, string>
  /** metadata.yaml of the instance, which says where templates go; undefined when it has none. */
  readonly metadata: string | undefined
  /** Fingerprint of the image the container was made from (`volatile.base_image`). */
  readonly baseImage: string | undefined
}

export interface InspectedArchive {
  /** The bytes of the file for the server; destroyed with the refusal before the last of them has been given out. */
  readonly body: Readable
  /** Settles before `body` ends. @throws UserError `archive-refused` with what is wrong with it */
  readonly verdict: Promise<ArchiveContents>
}
