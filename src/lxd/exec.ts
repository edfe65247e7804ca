import { constants } from 'node:os'
import { finished, type Readable, Writable } from 'node:stream'
import type { WebSocket } from 'ws'
import { z } from 'zod'
import { parseAnswer } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { LxdClient } from './client.ts'
import { abortable, sleep, startDeadline, type Deadline } from './deadline.ts'
import { feedIn, pumpOut } from './exec-streams.ts'
import { wrapTerminal, type TerminalWrap } from './exec-terminal.ts'
import { LxdError } from './lxd-error.ts'
import { operationSchema, type Operation } from './operation.ts'
import { awaitEnd, checkOutcome } from './wait.ts'

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
  /** Never ended; with a terminal everything comes on `stdout`. When one of them breaks, the program is killed. */
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

/**
 * Runs a program in a running container (POST /1.0/instances/NAME/exec) and resolves after its last byte of output was written.
 * A program that cannot be found or run gives 127 or 126 and a line on stderr, as a shell would; one killed by a signal 128 + its
 * number. Processes it leaves behind may keep the call open while they hold its output. With a terminal it runs under /bin/sh.
 * @throws LxdError `refused` (400) when the container does not run, `timed-out`, `lost` when the connection broke; the signal's reason
 */
export async function exec(lxd: LxdClient, instance: string, options: ExecOptions): Promise<{ exitCode: number }> {
  using deadline = startDeadline(`${options.command[0]} in ${instance}`, options.signal, options.timeoutMs)
  const { command, environment, user, group, cwd, terminal } = options
  const wrap = terminal && wrapTerminal(command)
  const begun = await lxd.begin('POST', apiPath`/1.0/instances/${instance}/exec`, {
    signal: deadline.signal,
    json: {
      command: wrap?.command ?? command,
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
  const operation = parseAnswer(operationSchema, begun, 'exec')
  const { fds } = parseAnswer(sessionSchema, operation.metadata, 'exec')
  const pumps: Promise<number | undefined>[] = []
  const listen = (name: string, socket: WebSocket) => {
    const isOutput = terminal === undefined ? name === '1' || name === '2' : name === '0'
    if (isOutput) pumps.push(pumpOut(socket, name === '2' ? options.stderr : options.stdout, wrap?.unwrap))
    else socket.resume()
  }
  const sockets = await connectAll(lxd, operation.id, fds, listen, deadline.signal)
  const forgetOutputs = [options.stdout, options.stderr].map(
    stream =>
      stream &&
      finished(stream, { readable: false }, error => deadline.abort(error ?? new Error('the output was closed')))
  )
  try {
    return await attend(lxd, instance, operation, sockets, { ...options, wrap, pumps }, deadline)
  } catch (error) {
    if (deadline.signal.aborted) await kill(lxd, instance, operation, sockets, wrap)
    throw error
  } finally {
    for (const forget of forgetOutputs) forget?.()
    for (const socket of Object.values(sockets)) socket.terminate()
  }
}

/** By name: `0` to `2` as file descriptors, and `control`; with a terminal `0` goes both ways. */
type Sockets = Readonly<Record<string, WebSocket>>

/**
 * All but the input at once, the input last: the program starts with the last stream, and when it ends at once LXD 5.0 and Incus 6.0
 * may drop what that stream had to bring (3 and 2 of 800 with stderr last, none with stdin). Control last may find it has ended.
 */
async function connectAll(
  lxd: LxdClient,
  operationId: string,
  secrets: Readonly<Record<string, string>>,
  listen: (name: string, socket: WebSocket) => void,
  signal: AbortSignal
): Promise<Sockets> {
  const path = apiPath`/1.0/operations/${operationId}/websocket`
  const sockets: Record<string, WebSocket> = {}
  const open = async ([name, secret]: [string, string]) => {
    const socket = await lxd.openWebSocket(path, { query: { secret }, signal })
    sockets[name] = socket
    // Now: a quick program has ended, and its output gone to nobody, before the others are open.
    listen(name, socket)
  }
  const { 0: input, ...others } = secrets
  const tried = await Promise.allSettled(Object.entries(others).map(open))
  const last = input === undefined ? [] : await Promise.allSettled([open(['0', input])])
  const failed = [...tried, ...last].find(one => one.status === 'rejected')
  if (failed === undefined) return sockets
  for (const socket of Object.values(sockets)) socket.terminate()
  throw failed.reason
}

interface Attended extends ExecOptions {
  readonly wrap: TerminalWrap | undefined
  /** The ends of the outputs; with a terminal, the exit code. */
  readonly pumps: readonly Promise<number | undefined>[]
}

async function attend(
  lxd: LxdClient,
  instance: string,
  operation: Operation,
  sockets: Sockets,
  { command, stdin, stdout, stderr, terminal, onSignal, wrap, pumps }: Attended,
  { signal }: Deadline
): Promise<{ exitCode: number }> {
  const { 0: first, control } = sockets
  terminal?.onResize((columns, rows) =>
    tell(control, { command: 'window-resize', args: { width: String(columns), height: String(rows) } })
  )
  // On a terminal each takes a program of its own: one at a time, and as with kill(2) one that waits already is not sent twice.
  const pending = new Set<string>()
  let delivering = Promise.resolve()
  onSignal?.(name => {
    const number = constants.signals[`SIG${name}` as NodeJS.Signals]
    if (number === undefined || pending.has(name)) return
    if (wrap === undefined) return tell(control, { command: 'signal', signal: number })
    pending.add(name)
    delivering = delivering.then(async () => {
      pending.delete(name)
      await exec(lxd, instance, { command: wrap.signalCommand(name), timeoutMs: KILL_GRACE_MS }).catch(() => {})
    })
  })
  if (first !== undefined) feedIn(stdin, first, terminal !== undefined)

  const waiting = new AbortController()
  const ended = awaitEnd(lxd, operation, { signal: waiting.signal, timeoutMs: Infinity })
  try {
    const written = Promise.all(pumps)
    const [marked] = await abortable(Promise.race([written, ended.then(() => written)]), signal)
    if (marked !== undefined) {
      tell(control, { command: 'signal', signal: constants.signals.SIGKILL })
      // Without a proper goodbye LXD 5.0 now and then keeps the operation for ever.
      await Promise.race([ended, sleep(KILL_GRACE_MS, signal)])
      return { exitCode: marked }
    }
    const outcome = await abortable(ended, signal)
    const result = resultSchema.safeParse(outcome.metadata)
    if (!result.success) checkOutcome(outcome)
    // LXD tells by a failed operation that there was nothing to run.
    if (outcome.err !== '') (stderr ?? stdout)?.write(`${command[0]}: ${outcome.err}\r\n`)
    return { exitCode: parseAnswer(resultSchema, outcome.metadata, 'exec').return }
  } finally {
    waiting.abort()
  }
}

function tell(control: WebSocket | undefined, message: object): void {
  control?.send(JSON.stringify(message), () => {})
}

/** Ends the program, and waits a little until LXD says that it has. */
async function kill(
  lxd: LxdClient,
  instance: string,
  operation: Operation,
  sockets: Sockets,
  wrap: TerminalWrap | undefined
): Promise<void> {
  const limit = { timeoutMs: KILL_GRACE_MS }
  // Unread output would keep LXD from noticing.
  for (const socket of Object.values(sockets)) socket.removeAllListeners('message').resume()
  if (wrap !== undefined) await exec(lxd, instance, { command: wrap.signalCommand('KILL'), ...limit }).catch(() => {})
  tell(sockets['control'], { command: 'signal', signal: constants.signals.SIGKILL })
  for (const socket of Object.values(sockets)) socket.close()
  await awaitEnd(lxd, operation, limit).catch(() => {})
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
  const collect = () => {
    const chunks: Buffer[] = []
    let sizeBytes = 0
    const stream = new Writable({
      write(chunk: Buffer, _encoding, done) {
        sizeBytes += chunk.length
        chunks.push(chunk)
        done(sizeBytes > maxBytes ? new LxdError('too-much', `more than ${maxBytes} bytes of output`) : null)
      }
    })
    return { stream, text: () => Buffer.concat(chunks).toString() }
  }
  const [stdout, stderr] = [collect(), collect()]
  const { exitCode } = await exec(lxd, instance, { ...options, stdout: stdout.stream, stderr: stderr.stream })
  return { exitCode, stdout: stdout.text(), stderr: stderr.text() }
}
