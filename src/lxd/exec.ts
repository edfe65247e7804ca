import { constants } from 'node:os'
import { type Readable, Writable } from 'node:stream'
import type { WebSocket } from 'ws'
import { z } from 'zod'
import { parseAnswer } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { LxdClient } from './client.ts'
import { abortable, startDeadline } from './deadline.ts'
import { LxdError } from './lxd-error.ts'
import type { Operation } from './operation.ts'
import { waitForOperation } from './wait.ts'

export interface ExecTerminal {
  /** Characters. */
  readonly columns: number
  readonly rows: number
  onResize(listener: (columns: number, rows: number) => void): void
}

export interface ExecOptions {
  /** Program and arguments; no shell is involved. */
  readonly command: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
  /** Numeric ids inside the container; root when left out. */
  readonly user?: number
  readonly group?: number
  readonly cwd?: string
  /** Read to its end; without it the program finds an empty standard input. Never destroyed. */
  readonly stdin?: Readable
  /** Never ended; with a terminal everything comes on `stdout`. */
  readonly stdout?: Writable
  readonly stderr?: Writable
  readonly terminal?: ExecTerminal | undefined
  /** Registers for signals to pass on, names without SIG. */
  readonly onSignal?: (listener: (name: string) => void) => void
  /** When it aborts, the program is killed. */
  readonly signal?: AbortSignal | undefined
  readonly timeoutMs?: number | undefined
}

const sessionSchema = z.looseObject({ fds: z.record(z.string(), z.string()) })
const resultSchema = z.looseObject({ return: z.number().int() })

// How long a killed program may take to be gone before we leave it to LXD.
const KILL_GRACE_MS = 2000
// LXD ends the output streams before the operation; this is for those it forgot.
const SILENCE_MS = 1000

/**
 * Runs a program in a running container (POST /1.0/instances/NAME/exec) and resolves after its last byte of output was written.
 * @throws LxdError `timed-out`, `lost` when the connection broke, `failed` when it could not be run; the signal's reason
 */
export async function exec(lxd: LxdClient, instance: string, options: ExecOptions): Promise<{ exitCode: number }> {
  const { command, environment, user, group, cwd, terminal } = options
  using deadline = startDeadline(`${command[0]} in ${instance}`, options.signal, options.timeoutMs)
  const begun = await lxd.begin('POST', apiPath`/1.0/instances/${instance}/exec`, {
    signal: deadline.signal,
    json: {
      command,
      environment,
      user,
      group,
      cwd,
      interactive: terminal !== undefined,
      width: terminal?.columns,
      height: terminal?.rows,
      'wait-for-websocket': true
    }
  })
  const { fds } = parseAnswer(sessionSchema, begun?.metadata, `exec in ${instance}`)
  const sockets = await connectAll(lxd, begun as Operation, fds, deadline.signal)
  try {
    return await attend(lxd, begun as Operation, sockets, options, deadline.signal)
  } finally {
    for (const socket of sockets.values()) socket.terminate()
  }
}

type Sockets = ReadonlyMap<string, WebSocket>

async function connectAll(
  lxd: LxdClient,
  { id }: Operation,
  secrets: Readonly<Record<string, string>>,
  signal: AbortSignal
): Promise<Sockets> {
  const open = async ([name, secret]: [string, string]) =>
    [name, await lxd.openWebSocket(apiPath`/1.0/operations/${id}/websocket`, { query: { secret }, signal })] as const
  const tried = await Promise.allSettled(Object.entries(secrets).map(open))
  const opened = tried.filter(one => one.status === 'fulfilled').map(one => one.value)
  const failed = tried.find(one => one.status === 'rejected')
  if (failed !== undefined) {
    for (const [, socket] of opened) socket.terminate()
    throw failed.reason
  }
  return new Map(opened)
}

async function attend(
  lxd: LxdClient,
  operation: Operation,
  sockets: Sockets,
  { stdin, stdout, stderr, terminal, onSignal }: ExecOptions,
  signal: AbortSignal
): Promise<{ exitCode: number }> {
  const control = sockets.get('control')
  const command = (message: object) => control?.send(JSON.stringify(message), () => {})
  terminal?.onResize((width, height) =>
    command({ command: 'window-resize', args: { width: String(width), height: String(height) } })
  )
  onSignal?.(name => {
    const number = constants.signals[`SIG${name}` as NodeJS.Signals]
    if (number !== undefined) command({ command: 'signal', signal: number })
  })
  control?.resume()
  const outputs =
    terminal === undefined
      ? [pump(sockets.get('1'), stdout), pump(sockets.get('2'), stderr)]
      : [pump(sockets.get('0'), stdout)]
  feed(stdin, sockets.get('0'), terminal !== undefined)
  if (terminal === undefined) sockets.get('0')?.resume()
  const ended = waitForOperation(lxd, operation)
  try {
    const { metadata } = await abortable(ended, signal)
    await Promise.all(outputs.map(output => abortable(output.ended(SILENCE_MS), signal)))
    return { exitCode: parseAnswer(resultSchema, metadata, 'exec').return }
  } catch (error) {
    if (signal.aborted) {
      command({ command: 'signal', signal: constants.signals.SIGKILL })
      for (const socket of sockets.values()) socket.close()
      await Promise.race([ended.catch(() => {}), new Promise(resolve => setTimeout(resolve, KILL_GRACE_MS))])
    }
    throw error
  }
}

interface Output {
  /** Resolves at the stream's end, or after `silenceMs` in which nothing came though we were listening. */
  ended(silenceMs: number): Promise<void>
}

/** Writes what arrives, and stops listening while `target` is full. */
function pump(socket: WebSocket | undefined, target: Writable | undefined): Output {
  const { promise: end, resolve: finish } = Promise.withResolvers<void>()
  let heardAtMs = performance.now()
  let full = false
  socket?.on('message', (data: Buffer, isBinary: boolean) => {
    heardAtMs = performance.now()
    // An empty text message is LXD's end-of-file.
    if (!isBinary) return finish()
    if (target === undefined || target.write(data)) return
    full = true
    socket.pause()
    target.once('drain', () => {
      full = false
      heardAtMs = performance.now()
      socket.resume()
    })
  })
  socket?.once('close', () => finish())
  if (socket === undefined) finish()
  socket?.resume()
  return {
    ended(silenceMs) {
      heardAtMs = performance.now()
      const look = setInterval(() => {
        if (!full && performance.now() - heardAtMs > silenceMs) finish()
      }, silenceMs / 10)
      return end.finally(() => clearInterval(look))
    }
  }
}

/** Sends standard input to its end: an empty text message for LXD, or what the end-of-file key sends on a terminal. */
function feed(stdin: Readable | undefined, socket: WebSocket | undefined, isTerminal: boolean): void {
  if (socket === undefined) return
  const sink = new Writable({
    write: (chunk: Buffer, _encoding, done) => socket.send(chunk, { binary: true }, done),
    final: done => socket.send(isTerminal ? '\x04' : '', { binary: isTerminal }, done)
  })
  sink.on('error', () => stdin?.unpipe(sink))
  socket.once('close', () => stdin?.unpipe(sink))
  if (stdin !== undefined) {
    stdin.once('error', () => sink.end())
    stdin.once('close', () => sink.end())
    stdin.pipe(sink)
  } else if (!isTerminal) sink.end()
}

/**
 * As `exec`, with the output collected.
 * @throws LxdError `too-much` when either stream exceeds `maxBytes`; the program is killed
 */
export async function execCaptured(
  lxd: LxdClient,
  instance: string,
  {
    maxBytes = 2 ** 20,
    ...options
  }: Omit<ExecOptions, 'stdout' | 'stderr' | 'terminal'> & { readonly maxBytes?: number }
): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  const overflow = new AbortController()
  const signals = [overflow.signal, options.signal].filter(signal => signal !== undefined)
  const collect = () => {
    const chunks: Buffer[] = []
    let sizeBytes = 0
    const stream = new Writable({
      write(chunk: Buffer, _encoding, done) {
        sizeBytes += chunk.length
        if (sizeBytes <= maxBytes) chunks.push(chunk)
        else overflow.abort(new LxdError('too-much', `${options.command[0]}: more than ${maxBytes} bytes of output`))
        done()
      }
    })
    return { stream, text: () => Buffer.concat(chunks).toString() }
  }
  const [stdout, stderr] = [collect(), collect()]
  const { exitCode } = await exec(lxd, instance, {
    ...options,
    stdout: stdout.stream,
    stderr: stderr.stream,
    signal: AbortSignal.any(signals)
  })
  return { exitCode, stdout: stdout.text(), stderr: stderr.text() }
}
