import { Writable } from 'node:stream'
import type { Wire } from './wire-protocol.ts'

/** The far end of a channel, as ssh2 keeps it: `window` is what the client still allows us to send. */
export interface Outgoing {
  readonly id: number
  window: number
  readonly packetSize: number
  state: 'open' | 'eof' | 'closing' | 'closed'
}

interface Piece {
  readonly data: Buffer
  readonly isError: boolean
  readonly done: (error?: Error) => void
  offset: number
}

/** Bytes that may wait in the process for one connection, whatever window its clients announce. */
const MAX_WAITING_BYTES = 1024 * 1024
const MAX_PACKET_BYTES = 32 * 1024

/**
 * Standard output and error of one channel (RFC 4254 sections 5.2 and 6.10), in place of ssh2's own two streams. Those share
 * one broken wake-up (output is lost or the session hangs once both exceed the window), ignore TCP backpressure, and swallow
 * writes after a disconnect; here every write ends: sent, or failed with EPIPE.
 */
export class ChannelWriter {
  readonly stdout: Writable
  readonly stderr: Writable
  readonly #wire: Wire
  readonly #outgoing: Outgoing
  readonly #pieces: Piece[] = []

  constructor(wire: Wire, outgoing: Outgoing) {
    this.#wire = wire
    this.#outgoing = outgoing
    this.stdout = this.#stream(false)
    this.stderr = this.#stream(true)
  }

  /** Sends what window and socket allow. Called again whenever either of them opens. */
  pump(): void {
    while (this.#pieces.length > 0) {
      if (!this.#wire.alive || this.#outgoing.state !== 'open') return this.fail()
      const piece = this.#pieces[0] as Piece
      while (piece.offset < piece.data.length) {
        if (this.#outgoing.window <= 0 || this.#wire.waitingBytes > MAX_WAITING_BYTES || this.#wire.rekeying) return
        const end = Math.min(
          piece.data.length,
          piece.offset + Math.min(this.#outgoing.window, this.#outgoing.packetSize, MAX_PACKET_BYTES)
        )
        const part = piece.data.subarray(piece.offset, end)
        this.#outgoing.window -= part.length
        piece.offset = end
        this.#wire.sendData(this.#outgoing.id, part, piece.isError)
      }
      this.#pieces.shift()
      piece.done()
    }
  }

  /** Nothing can be sent any more: all that waits fails. */
  fail(): void {
    for (const { done } of this.#pieces.splice(0)) {
      done(Object.assign(new Error('the channel is closed'), { code: 'EPIPE' }))
    }
  }

  /** Sends the last byte, then the exit status, then the end (RFC 4254 sections 6.10 and 5.3). */
  async finish(exitCode: number): Promise<void> {
    await Promise.all([end(this.stdout), end(this.stderr)])
    if (!this.#wire.alive || this.#outgoing.state !== 'open') return
    this.#wire.sendExit(this.#outgoing.id, exitCode)
    this.#outgoing.state = 'closing'
  }

  #stream(isError: boolean): Writable {
    const stream = new Writable({
      highWaterMark: 256 * 1024,
      decodeStrings: true,
      write: (data: Buffer, _encoding, done) => {
        this.#pieces.push({ data, isError, done, offset: 0 })
        this.pump()
      }
    })
    // EPIPE concerns whoever writes and listens; unheard it must not end the process.
    stream.on('error', () => {})
    return stream
  }
}

function end(stream: Writable): Promise<void> {
  return new Promise(resolve => {
    if (stream.destroyed) return resolve()
    stream.once('close', resolve)
    stream.end()
  })
}
