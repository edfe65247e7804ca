import type { FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { Worker } from 'node:worker_threads'
import { refuseArchive } from './archive-refusal.ts'
import { checkArchiveYaml } from './archive-yaml.ts'
import { collectBuffers } from './collect-buffers.ts'
import { NasSilence } from './nas-silence.ts'

export type Compression = 'zstd' | 'gzip' | 'none'

/** What the row of a snapshot says of its archive, and what it must therefore turn out to be. */
export interface ArchiveClaims {
  /** Of the file as it lies on the disk: 64 hexadecimal digits. */
  readonly sha256: string
  readonly sizeBytes: number
  /** Of the tar inside. */
  readonly uncompressedBytes: number
  /** As `ArchiveContents` had it when the archive was made. */
  readonly templatesSha256?: string
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

/** What the worker is started with. */
export interface InspectionOrder {
  readonly fd: number
  readonly claims: Claims
  readonly isForwarded: boolean
}

/** What the worker says; it waits for leave (any message) after every few pieces. */
export type InspectionReport =
  | { readonly kind: 'yaml'; readonly path: string; readonly content: Uint8Array }
  | { readonly kind: 'piece'; readonly bytes: Uint8Array<ArrayBuffer>; readonly readBytes: number }
  | { readonly kind: 'approved'; readonly contents: ArchiveContents; readonly last: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'refused'; readonly why: string }
  | { readonly kind: 'silent'; readonly forMs: number }

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

const COLLECT_EVERY_BYTES = 4 * 2 ** 20

/** The worker keeps the sessions of others going; it is small, so the YAML is read here, where its parser is loaded anyway. */
function startInspection(
  file: FileHandle,
  claims: Claims,
  isForwarded: boolean,
  { signal, onProgress }: InspectOptions = {}
): InspectedArchive {
  const verdict = Promise.withResolvers<ArchiveContents>()
  verdict.promise.catch(() => {})
  const worker = new Worker(new URL('./inspect-worker.ts', import.meta.url), {
    workerData: { fd: file.fd, claims, isForwarded } satisfies InspectionOrder
  })
  const allow = () => worker.postMessage('more', [])
  let held = 0
  const body = new Readable({
    highWaterMark: 512 * 1024,
    signal,
    read: () => {
      for (; held > 0; held -= 1) allow()
    },
    destroy: (error, callback) => {
      verdict.reject(error ?? new Error('the archive was not read to its end'))
      // The worker may be reading: closing the file under it could give it another one.
      void worker
        .terminate()
        .then(() => file.close())
        .then(
          () => callback(error),
          (failure: Error) => callback(error ?? failure)
        )
    }
  })
  const take = (report: InspectionReport) => {
    if (report.kind === 'yaml') checkArchiveYaml(report.path, report.content, claims.instanceName)
    else if (report.kind === 'refused') refuseArchive(report.why)
    else if (report.kind === 'silent') throw new NasSilence(report.forMs)
    else if (report.kind === 'piece') {
      onProgress?.(report.readBytes)
      if (report.readBytes % COLLECT_EVERY_BYTES < report.bytes.length) collectBuffers()
      if (report.bytes.length === 0 || body.push(report.bytes)) allow()
      else held += 1
    } else {
      verdict.resolve(report.contents)
      if (isForwarded) body.push(report.last)
      body.push(null)
    }
  }
  worker.on('message', (report: InspectionReport) => {
    if (body.destroyed) return
    try {
      take(report)
    } catch (error) {
      body.destroy(error as Error)
    }
  })
  worker.on('error', error => body.destroy(error))
  return { body, verdict: verdict.promise }
}
