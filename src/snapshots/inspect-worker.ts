import { fstat, read } from 'node:fs'
import { promisify } from 'node:util'
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'
import { UserError } from '../errors.ts'
import { refuseArchive } from './archive-refusal.ts'
import type { InspectionOrder, InspectionReport } from './inspect.ts'
import { Inspection } from './inspection.ts'
import { NasSilence, unlessSilent } from './nas-silence.ts'

const PIECE_BYTES = 1024 * 1024
/** Pieces given out before the first of them is taken. */
const WINDOW = 2

const port = parentPort as MessagePort
const say = (report: InspectionReport, transfer: ArrayBuffer[] = []) => port.postMessage(report, transfer)

let allowed = WINDOW
let onAllowed = () => {}
port.on('message', () => {
  allowed += 1
  onAllowed()
})

await inspect(workerData as InspectionOrder).catch((error: unknown) => {
  if (error instanceof NasSilence) return say({ kind: 'silent', forMs: error.ms })
  if (!(error instanceof UserError)) throw error
  say({ kind: 'refused', why: error.message })
})
port.close()

async function inspect({ fd, claims, isForwarded }: InspectionOrder): Promise<void> {
  const { size: sizeBytes } = await unlessSilent(promisify(fstat)(fd))
  const inspection = new Inspection(claims, sizeBytes, (path, content) => say({ kind: 'yaml', path, content }))
  let last = new Uint8Array(0)
  let readBytes = 0
  for await (const piece of readPieces(fd, sizeBytes)) {
    await inspection.write(Buffer.from(piece.buffer, 0, piece.length))
    readBytes += piece.length
    // What nobody is given is freed here; waiting for the collector it would pile up.
    const given = isForwarded ? piece : new Uint8Array(piece.buffer.transfer(0))
    if (readBytes === sizeBytes) last = given
    else await give(given, readBytes)
  }
  const contents = await inspection.end()
  say({ kind: 'approved', contents, last }, [last.buffer])
}

/** Each in memory of its own, so that it can be handed over without copying; the next is read while one is worked on. */
async function* readPieces(fd: number, sizeBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const readPiece = async (at: number): Promise<Uint8Array<ArrayBuffer>> => {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, sizeBytes - at))
    for (let filled = 0; filled < piece.length;) {
      const reading = promisify(read)(fd, piece, filled, piece.length - filled, at + filled)
      const { bytesRead } = await unlessSilent(reading)
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
  if ((await unlessSilent(promisify(fstat)(fd))).size !== sizeBytes)
    refuseArchive('It became longer while it was read.')
}

async function give(bytes: Uint8Array<ArrayBuffer>, readBytes: number): Promise<void> {
  if (allowed === 0) await new Promise<void>(resolve => (onAllowed = resolve))
  allowed -= 1
  say({ kind: 'piece', bytes, readBytes }, [bytes.buffer])
}
