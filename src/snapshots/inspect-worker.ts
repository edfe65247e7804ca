import { createHash } from 'node:crypto'
import { fstat, read } from 'node:fs'
import { promisify } from 'node:util'
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'
import { UserError } from '../errors.ts'
import { ArchiveLayout } from './archive-layout.ts'
import { refuseArchive } from './archive-refusal.ts'
import { collectYoung } from './collect-young.ts'
import type { ArchiveContents, InspectionOrder, InspectionReport } from './inspect.ts'
import { createUnpacker } from './one-frame.ts'
import { TarReader } from './tar-reader.ts'

const PIECE_BYTES = 128 * 1024
/** Pieces given out before the first of them is taken. */
const WINDOW = 4

const COLLECT_EVERY_BYTES = 4 * 2 ** 20

const port = parentPort as MessagePort
const say = (report: InspectionReport, transfer: ArrayBuffer[] = []) => port.postMessage(report, transfer)

let allowed = WINDOW
let onAllowed = () => {}
port.on('message', () => {
  allowed += 1
  onAllowed()
})

await inspect(workerData as InspectionOrder).catch((error: unknown) => {
  if (!(error instanceof UserError)) throw error
  say({ kind: 'refused', why: error.message })
})
port.close()

async function inspect({ fd, claims, isForwarded }: InspectionOrder): Promise<void> {
  const { size: sizeBytes } = await promisify(fstat)(fd)
  if (claims.sizeBytes !== undefined && claims.sizeBytes !== sizeBytes)
    refuseArchive(`It has ${sizeBytes} bytes and not the ${claims.sizeBytes} that were recorded.`)
  const hash = createHash('sha256')
  const layout = new ArchiveLayout((name, content) => say({ kind: 'yaml', path: name, content }))
  const tar = new TarReader(layout.visit)
  const unpacker = createUnpacker(claims.compression, sizeBytes, plain => {
    if (tar.sizeBytes + plain.length > (claims.uncompressedBytes ?? Infinity))
      refuseArchive(`It unpacks to more than the ${claims.uncompressedBytes} bytes that were recorded.`)
    tar.push(plain)
  })
  let last = new Uint8Array(0)
  let readBytes = 0
  let collectedAt = 0
  for await (const piece of readPieces(fd, sizeBytes)) {
    // The decoder has a thread of its own to work in meanwhile.
    const unpacked = unpacker.write(Buffer.from(piece.buffer, 0, piece.length))
    hash.update(piece)
    await unpacked
    if (tar.sizeBytes - collectedAt > COLLECT_EVERY_BYTES) {
      collectYoung()
      collectedAt = tar.sizeBytes
    }
    readBytes += piece.length
    if (readBytes === sizeBytes) last = piece
    else await give(isForwarded ? piece : new Uint8Array(0), readBytes)
  }
  await unpacker.end()
  tar.end()
  layout.end()
  const contents: ArchiveContents = {
    sha256: hash.digest('hex'),
    sizeBytes,
    uncompressedBytes: tar.sizeBytes
  }
  compare(contents, claims)
  say({ kind: 'approved', contents, last }, [last.buffer])
}

/** Each in memory of its own, so that it can be handed over without copying; the next is read while one is worked on. */
async function* readPieces(fd: number, sizeBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const readPiece = async (at: number): Promise<Uint8Array<ArrayBuffer>> => {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, sizeBytes - at))
    for (let filled = 0; filled < piece.length;) {
      const { bytesRead } = await promisify(read)(fd, piece, filled, piece.length - filled, at + filled)
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
  if ((await promisify(fstat)(fd)).size !== sizeBytes) refuseArchive('It became longer while it was read.')
}

async function give(bytes: Uint8Array<ArrayBuffer>, readBytes: number): Promise<void> {
  while (allowed === 0) await new Promise<void>(resolve => (onAllowed = resolve))
  allowed -= 1
  say({ kind: 'piece', bytes, readBytes }, [bytes.buffer])
}

function compare(contents: ArchiveContents, claims: InspectionOrder['claims']): void {
  if (claims.uncompressedBytes !== undefined && contents.uncompressedBytes !== claims.uncompressedBytes)
    refuseArchive(`It unpacks to ${contents.uncompressedBytes} bytes and not the ${claims.uncompressedBytes} recorded.`)
  if (claims.sha256 !== undefined && contents.sha256 !== claims.sha256)
    refuseArchive('Its SHA-256 is not the one that was recorded: it has been damaged or replaced.')
}
