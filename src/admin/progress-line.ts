import type { WriteStream } from 'node:tty'

const SPINNER = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']
const BAR_COLUMNS = 20
/** Work shorter than this shows nothing. */
const QUIET_MS = 400

/** One line that follows a long action: a bar where the fraction is known, a spinner where not. */
export class ProgressLine {
  readonly #stream: WriteStream
  readonly #startedAtMs = Date.now()
  readonly #timer: NodeJS.Timeout | undefined
  #step = ''
  #fraction: number | undefined
  #drawn = false
  #turn = 0

  constructor(stream: WriteStream) {
    this.#stream = stream
    if (stream.isTTY) this.#timer = setInterval(() => this.#draw(), 100).unref()
  }

  update(step: string, fraction?: number): void {
    if (!this.#timer && step.split(',')[0] !== this.#step.split(',')[0]) this.#stream.write(`${step}\n`)
    this.#step = step
    this.#fraction = fraction
  }

  end(): void {
    clearInterval(this.#timer)
    if (this.#drawn) this.#stream.write('\r\x1b[2K')
  }

  #draw(): void {
    const elapsedMs = Date.now() - this.#startedAtMs
    if (elapsedMs < QUIET_MS) return
    this.#drawn = true
    const seconds = `${Math.round(elapsedMs / 1000)} s`
    const room = (this.#stream.columns || 80) - BAR_COLUMNS - seconds.length - 10
    this.#stream.write(`\r\x1b[2K${this.#mark()} ${this.#step.slice(0, Math.max(room, 10))}  ${seconds}`)
  }

  #mark(): string {
    if (this.#fraction === undefined) return SPINNER[this.#turn++ % SPINNER.length] as string
    const done = Math.round(Math.min(Math.max(this.#fraction, 0), 1) * BAR_COLUMNS)
    return `[${'#'.repeat(done)}${'.'.repeat(BAR_COLUMNS - done)}] ${Math.round(this.#fraction * 100)} %`
  }
}
