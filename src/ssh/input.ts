import { Readable } from 'node:stream'

const CTRL_C = 0x03
const CTRL_D = 0x04
const BACKSPACE = 0x08
const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const CTRL_U = 0x15
const DELETE = 0x7f
/** One column back, blank, one column back. */
const ERASE = [BACKSPACE, 0x20, BACKSPACE]
const MAX_TYPED_BYTES = 64 * 1024

/** What a client sends: a channel, as far as input goes. */
type Source = Pick<Readable, 'on' | 'pause' | 'resume'>

/**
 * Standard input of one command, a stream of its own because destroying a channel would end the session. What a command does
 * not read is bounded by the channel's window.
 */
export class Input extends Readable {
  protected readonly source: Source
  protected isWanted = false

  constructor(source: Source) {
    super({ highWaterMark: MAX_TYPED_BYTES })
    this.source = source
    source.on('data', (chunk: Buffer) => this.receive(chunk))
    source.on('end', () => this.end())
  }

  override _read(): void {
    this.isWanted = true
    this.source.resume()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.source.resume()
    done(error)
  }

  protected receive(chunk: Buffer): void {
    if (this.destroyed || this.readableEnded) return
    if (!this.push(chunk)) this.source.pause()
  }

  protected end(): void {
    if (!this.destroyed) this.push(null)
  }
}

interface Keyboard {
  /** Shows what was typed. */
  echo(text: Buffer): void
  interrupt(): void
}

/**
 * Standard input with a pty. ssh2 has no line discipline, so this is the small part of one (termios(3), ICANON, ECHO and ISIG)
 * that a person misses: echo and line editing while a command reads, ^C always, ^D as end of input. After `raw` every byte
 * goes through untouched.
 */
export class TerminalInput extends Input {
  readonly #keyboard: Keyboard
  #line: number[] = []
  #shown: number[] = []
  #raw = false
  #ended = false

  constructor(source: Source, keyboard: Keyboard) {
    super(source)
    this.#keyboard = keyboard
  }

  raw(): void {
    this.#raw = true
    this.#submit()
  }

  protected override receive(chunk: Buffer): void {
    if (this.#raw) return super.receive(chunk)
    for (const code of chunk) this.#type(code)
    if (this.isWanted && this.#shown.length > 0) this.#keyboard.echo(Buffer.from(this.#shown))
    this.#shown = []
  }

  protected override end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#submit()
    super.end()
  }

  #type(code: number): void {
    if (code === CTRL_C) this.#keyboard.interrupt()
    else if (this.#ended || this.readableLength + this.#line.length >= MAX_TYPED_BYTES) return
    else if (code === CTRL_D) {
      if (this.#line.length === 0) this.end()
      else this.#submit()
    } else if (code === CARRIAGE_RETURN || code === LINE_FEED) {
      this.#shown.push(CARRIAGE_RETURN, LINE_FEED)
      this.#line.push(LINE_FEED)
      this.#submit()
    } else if (code === DELETE || code === BACKSPACE) this.#erase()
    else if (code === CTRL_U) while (this.#line.length > 0) this.#erase()
    else if (code >= 0x20 || code === TAB) {
      this.#line.push(code)
      this.#shown.push(code)
    }
  }

  /** Removes one character, which in UTF-8 may be several bytes. */
  #erase(): void {
    let last: number | undefined
    do last = this.#line.pop()
    while (last !== undefined && (last & 0xc0) === 0x80)
    if (last !== undefined) this.#shown.push(...ERASE)
  }

  #submit(): void {
    if (this.#line.length > 0 && !this.destroyed) this.push(Buffer.from(this.#line))
    this.#line = []
  }
}
