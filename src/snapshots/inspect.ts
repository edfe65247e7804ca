import type { FileHandle } from 'node:fs/promises'
import { refuseArchive } from './archive-refusal.ts'
import { checkArchiveYaml } from './archive-yaml.ts'
import { Inspection } from './inspection.ts'
import { unlessSilent } from './nas-silence.ts'

export type Compression = 'zstd' | 'gzip' | 'none'

/** What the row of a snapshot says of its archive, and what it must therefore turn out to be. */
export interface ArchiveClaims {
  /** Of the file as it lies on the disk: 64 hexadecimal digits. */
  readonly sha256: string
  readonly sizeBytes: number
  /** Of the tar inside. */
  readonly uncompressedBytes: number
  readonly compression: Compression
  /** Name of the instance that was exported: a temporary one where a copy was taken. */
  readonly instanceName: string
}

/** What an archive was found to be. */
export interface ArchiveContents {
  readonly sha256: string
  readonly sizeBytes: number
  readonly uncompressedBytes: number
}

/** What must be known, and what is compared where it is. */
export type Claims = Partial<ArchiveClaims> & Pick<ArchiveClaims, 'compression' | 'instanceName'>

/** Bytes of the file that have been looked at; all of them once it is approved. */
type OnProgress = (readBytes: number) => void

/**
 * Only tells what an archive is and that it can be recovered; what is not claimed is found out.
 * @throws as inspectPieces
 */
export async function inspectArchive(
  file: FileHandle,
  claims: Claims,
  onProgress?: OnProgress
): Promise<ArchiveContents> {
  const pieces = inspectPieces(file, claims, onProgress)
  for (;;) {
    const { done, value } = await pieces.next()
    if (done) return value
  }
}

/** Each turn of a thread of libuv's costs some 0.2 ms on both sides. */
const PIECE_BYTES = 4 * 2 ** 20
/** One is given out, one is with the decoder, and one is being read. */
const PIECES_IN_MEMORY = 3

/**
 * Reads an archive once: hashed, unpacked, inspected and given out in the same pass, since the file on a NAS can be another one at
 * the second reading. The last piece is withheld until all of it is approved, and the server imports nothing of a body cut short.
 *
 * A piece lasts until the next one is asked for: then its memory is used again. With new memory for each, the collector took as much
 * time as the hash.
 * @returns what the archive is, in the end @throws UserError `archive-refused`; an Error with a `syscall` when the file cannot be read
 */
export async function* inspectPieces(
  file: FileHandle,
  claims: Claims,
  onProgress: OnProgress = () => {}
): AsyncGenerator<Buffer, ArchiveContents> {
  const { size: sizeBytes } = await unlessSilent(file.stat())
  const inspection = new Inspection(claims, sizeBytes, (path, content) =>
    checkArchiveYaml(path, content, claims.instanceName)
  )
  let readBytes = 0
  let held: Buffer | undefined
  for await (const piece of readPieces(file, sizeBytes)) {
    await inspection.write(piece)
    if (held) {
      readBytes += held.length
      onProgress(readBytes)
      yield held
    }
    held = piece
  }
  const contents = await inspection.end()
  onProgress(sizeBytes)
  if (held) yield held
  return contents
}

/** The next is read while one is worked on. */
async function* readPieces(file: FileHandle, sizeBytes: number): AsyncGenerator<Buffer, void> {
  const memory = Array.from({ length: PIECES_IN_MEMORY }, () =>
    Buffer.allocUnsafeSlow(Math.min(PIECE_BYTES, sizeBytes))
  )
  const readPiece = async (index: number): Promise<Buffer> => {
    const at = index * PIECE_BYTES
    const piece = (memory[index % PIECES_IN_MEMORY] as Buffer).subarray(0, sizeBytes - at)
    for (let filled = 0; filled < piece.length;) {
      const { bytesRead } = await unlessSilent(file.read(piece, filled, piece.length - filled, at + filled))
      if (bytesRead === 0) refuseArchive('It became shorter while it was read.')
      filled += bytesRead
    }
    return piece
  }
  const count = Math.ceil(sizeBytes / PIECE_BYTES)
  let next = readPiece(0)
  for (let index = 0; index < count; index++) {
    const piece = await next
    if (index + 1 < count) next = readPiece(index + 1)
    next.catch(() => {})
    yield piece
  }
  if ((await unlessSilent(file.stat())).size !== sizeBytes) refuseArchive('It became longer while it was read.')
}
