import { finished, type Readable, Writable } from 'node:stream'
import type { WebSocket } from 'ws'
import type { TerminalWrap } from './exec-terminal.ts'

/**
 * Writes what arrives to `target`, or drops it without one; stops listening while `target` is full.
 * @returns at the end of the stream: LXD's empty text message, to which LXD expects us to close, or the socket's own close;
 * with `unwrap`, the exit code as soon as it says one
 */
export function pumpOut(
  socket: WebSocket,
  target: Writable | undefined,
  unwrap: TerminalWrap['unwrap'] = shown => ({ shown })
): Promise<number | undefined> {
  const { promise, resolve } = Promise.withResolvers<number | undefined>()
  let marked = false
  socket.on('message', (data: Buffer, isBinary: boolean) => {
    if (!isBinary) {
      socket.close()
      return resolve(undefined)
    }
    if (marked) return
    const { shown, exitCode } = unwrap(data)
    if (exitCode !== undefined) {
      marked = true
      resolve(exitCode)
    }
    if (target === undefined || shown.length === 0 || target.write(shown) || marked) return
    socket.pause()
    target.once('drain', () => socket.resume())
  })
  socket.once('close', () => resolve(undefined))
  socket.resume()
  return promise
}

/**
 * Sends `source` no faster than the socket takes it, then the end of file: an empty text message for LXD, or on a terminal what the
 * end-of-file key types. The source is never destroyed.
 */
export function feedIn(source: Readable | undefined, socket: WebSocket, isTerminal: boolean): void {
  const sink = new Writable({
    write: (chunk: Buffer, _encoding, done) => socket.send(chunk, { binary: true }, done),
    final: done => socket.send(isTerminal ? '\x04' : '', { binary: isTerminal }, done)
  })
  const stop = () => source?.unpipe(sink)
  sink.on('error', stop)
  socket.once('close', stop)
  if (source === undefined) {
    if (!isTerminal) sink.end()
    return
  }
  // A source that breaks off without an end gives the program one all the same.
  finished(source, { writable: false }, () => sink.end())
  source.pipe(sink)
}
