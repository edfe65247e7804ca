import type { FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { refuseArchive } from './archive-refusal.ts'
import { checkArchiveYaml } from './archive-yaml.ts'
import { collectBuffers } from './collect-buffers.ts'
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

export interface InspectedArchive {
  /** The bytes of the file for the server; destroyed with the refusal before the last of them has been given out. */
  readonly body: Readable
  /** Settles before `body` ends. @throws UserError `archive-refused` with what is wrong with it */
  readonly verdict: Promise<ArchiveContents>
}

export interface InspectOptions {
  readonly signal?: AbortSignal | undefined
  /** Bytes of the file read so far. */
  readonly onProgress?: ((readBytes: number) => void) | undefined
}

/** What must be known, and what is compared where it is. */
export type Claims = Partial<ArchiveClaims> & Pick<ArchiveClaims, 'compression' | 'instanceName'>

/**
 * Reads an archive once: hashed, unpacked, inspected and given out in the same pass, since the file on a NAS can be another one at
 * the second reading. The last piece is withheld until all of it is approved, and the server imports nothing of a body cut short.
 * The file is closed with the body.
 */
export function openInspectedArchive(
  file: FileHandle,
  claims: ArchiveClaims,
  options?: InspectOptions
): InspectedArchive {
  return startInspection(file, claims, true, options)
}

/**
 * Only tells what an archive is and that it can be recovered; what is not claimed is found out.
 * @throws UserError `archive-refused`; an Error with a `syscall` when the file cannot be read
 */
export async function inspectArchive(
  file: FileHandle,
  claims: Claims,
  options?: InspectOptions
): Promise<ArchiveContents> {
  const { body, verdict } = startInspection(file, claims, false, options)
  body.on('error', () => {}).resume()
  return verdict
}

const PIECE_BYTES = 2 ** 20
/** Given out before the first of them is taken. */
const WINDOW_BYTES = 2 * PIECE_BYTES
const COLLECT_EVERY_PIECES = 4

interface Judge {
  readonly isForwarded: boolean
  readonly onProgress: InspectOptions['onProgress']
  approve(contents: ArchiveContents): void
}

function startInspection(
  file: FileHandle,
  claims: Claims,
  isForwarded: boolean,
  { signal, onProgress }: InspectOptions = {}
): InspectedArchive {
  const verdict = Promise.withResolvers<ArchiveContents>()
  verdict.promise.catch(() => {})
  const judge = { isForwarded, onProgress, approve: verdict.resolve }
  const options = { objectMode: false, highWaterMark: WINDOW_BYTES, ...(signal && { signal }) }
  const body = Readable.from(inspect(file, claims, judge), options)
  body.once('close', () => {
    verdict.reject(body.errored ?? new Error('the archive was not read to its end'))
    // It waits for a read that is under way.
    file.close().catch(() => {})
  })
  return { body, verdict: verdict.promise }
}

async function* inspect(file: FileHandle, claims: Claims, judge: Judge): AsyncGenerator<Uint8Array, void> {
  const { size: sizeBytes } = await unlessSilent(file.stat())
  const inspection = new Inspection(claims, sizeBytes, (path, content) =>
    checkArchiveYaml(path, content, claims.instanceName)
  )
  let readBytes = 0
  let held: Uint8Array<ArrayBuffer> | undefined
  for await (const piece of readPieces(file, sizeBytes)) {
    await inspection.write(Buffer.from(piece.buffer))
    if (held) {
      readBytes += held.length
      judge.onProgress?.(readBytes)
      if (judge.isForwarded) yield held
      // What nobody is given is freed here; waiting for the collector it would pile up.
      else held.buffer.transfer(0)
    }
    held = piece
    if (readBytes % (COLLECT_EVERY_PIECES * PIECE_BYTES) === 0) collectBuffers()
  }
  judge.approve(await inspection.end())
  if (held && judge.isForwarded) yield held
}

/** The next is read while one is worked on. */
async function* readPieces(file: FileHandle, sizeBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  const readPiece = async (at: number): Promise<Uint8Array<ArrayBuffer>> => {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, sizeBytes - at))
    for (let filled = 0; filled < piece.length;) {
      const { bytesRead } = await unlessSilent(file.read(piece, filled, piece.length - filled, at + filled))
      if (bytesRead === 0) refuseArchive('It became shorter while it was read.')
      filled += bytesRead
    }
    return piece
  }
  let next = readPiece(0)
  for (let at = 0; at < sizeBytes; at += PIECE_BYTES) {
    const piece = await next
    next = readPiece(Math.min(at + PIECE_BYTES, sizeBytes))
    next.catch(() => {})
    yield piece
  }
  if ((await unlessSilent(file.stat())).size !== sizeBytes) refuseArchive('It became longer while it was read.')
}
