import type { ServerChannel, Session } from 'ssh2'
import type { Invocation, Principal, Terminal } from '../command/command.ts'
import type { RunCommand } from '../command/run-command.ts'
import type { NodeConfig } from '../config.ts'
import { UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import { ChannelWriter } from './channel-writer.ts'
import { refuseFileTransfer, splitCommandLine } from './command-line.ts'
import { Input, TerminalInput } from './input.ts'
import { ChannelReply } from './reply.ts'
import type { Wire } from './wire-protocol.ts'

export interface SessionContext {
  readonly sessionId: string
  readonly wire: Wire
  readonly principal: Principal
  readonly node: NodeConfig
  readonly address: string
  readonly software: string
  readonly run: RunCommand
  readonly log: Log
}

/** Exit code by signal, as shells report it: 128 plus the number. */
const INTERRUPTIONS: Readonly<Record<string, number>> = { HUP: 129, INT: 130, QUIT: 131, TERM: 143 }
const INTERNAL_ERROR = 70
/** Given to `abort`, which else makes an exception with a stack for every session. */
const GONE = new Error('the client has gone')

/** Serves one session channel: at most one pty, then one command (RFC 4254 section 6). */
export function serveSession(session: Session, context: SessionContext): void {
  const gone = new AbortController()
  const signalListeners: ((name: string) => void)[] = []
  const interruption = Promise.withResolvers<number>()
  let terminal: PtyTerminal | undefined

  session.on('pty', (accept, _reject, { term, cols, rows }: PtyRequest) => {
    terminal = new PtyTerminal(term, cols, rows)
    accept?.()
  })
  session.on('window-change', (accept, _reject, { cols, rows }) => {
    terminal?.resize(cols, rows)
    accept?.()
  })
  session.on('signal', (accept, _reject, { name }) => {
    accept?.()
    if (signalListeners.length > 0) for (const listener of signalListeners) listener(name)
    else if (INTERRUPTIONS[name] !== undefined) interruption.resolve(INTERRUPTIONS[name])
  })
  session.on('close', () => gone.abort(GONE))
  session.on('shell', accept => start(accept(), () => []))
  session.on('exec', (accept, _reject, { command }) =>
    start(accept(), () => {
      const words = splitCommandLine(command)
      refuseFileTransfer(words[0], context.node.name)
      return words
    })
  )
  session.on('subsystem', (accept, _reject, { name }) =>
    start(accept(), () => {
      refuseFileTransfer(name, context.node.name)
      throw new UserError('command-line-refused', `There is no subsystem ${JSON.stringify(name)} here.`)
    })
  )

  /** ssh2 wants its answer at once: after a turn of the event loop `accept` gives nothing and the client hangs. */
  function start(channel: ServerChannel | undefined, words: () => string[]): void {
    if (!channel) return
    execute(channel, words).catch((error: unknown) => context.log.error({ err: error }, 'session failed'))
  }

  async function execute(channel: ServerChannel, words: () => string[]): Promise<void> {
    const { wire, sessionId, principal, node, address, software, run, log } = context
    // A client that sends after its own end of file makes the stream complain.
    channel.on('error', () => {})
    const writer = new ChannelWriter(wire, wire.outgoingOf(channel))
    const reply = new ChannelReply(writer.stdout, writer.stderr, terminal)
    const input = terminal
      ? new TerminalInput(channel, {
          // Somebody who types without ever reading gets no echo.
          echo: text => void (writer.stdout.writableNeedDrain || writer.stdout.write(text)),
          interrupt() {
            writer.stdout.write('^C\r\n')
            interruption.resolve(INTERRUPTIONS['INT'] as number)
          }
        })
      : new Input(channel)
    if (input instanceof TerminalInput) terminal?.onRaw(() => input.raw())
    const unfollow = wire.follow(
      () => writer.pump(),
      () => gone.abort(GONE)
    )
    gone.signal.addEventListener('abort', () => writer.fail())
    const invocation: Invocation = {
      sessionId,
      principal,
      node,
      address,
      software,
      reply,
      stdin: input,
      stdout: writer.stdout,
      stderr: writer.stderr,
      terminal,
      onSignal: listener => void signalListeners.push(listener),
      gone: gone.signal
    }
    const done = run(words, invocation).catch((error: unknown) => {
      log.error({ err: error }, 'command failed')
      return INTERNAL_ERROR
    })
    // What has begun goes on after an interruption; only nobody waits for it any more.
    const exitCode = await Promise.race([done, interruption.promise])
    reply.close()
    await writer.finish(exitCode)
    gone.abort(GONE)
    unfollow()
  }
}

interface PtyRequest {
  readonly term: unknown
  readonly cols: number
  readonly rows: number
}

class PtyTerminal implements Terminal {
  readonly term: string
  columns: number
  rows: number
  readonly #listeners: ((columns: number, rows: number) => void)[] = []
  #setRaw = () => {}

  constructor(term: unknown, columns: number, rows: number) {
    // The name becomes TERM in a container: letters only, no paths into terminfo.
    this.term = typeof term === 'string' && /^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$/.test(term) ? term : 'dumb'
    this.columns = sizeOr(columns, 80)
    this.rows = sizeOr(rows, 24)
  }

  onResize(listener: (columns: number, rows: number) => void): void {
    this.#listeners.push(listener)
  }

  raw(): void {
    this.#setRaw()
  }

  onRaw(listener: () => void): void {
    this.#setRaw = listener
  }

  resize(columns: number, rows: number): void {
    this.columns = sizeOr(columns, this.columns)
    this.rows = sizeOr(rows, this.rows)
    for (const listener of this.#listeners) listener(this.columns, this.rows)
  }
}

const sizeOr = (size: number, otherwise: number): number => (size >= 1 && size <= 1000 ? size : otherwise)
