import type { Writable } from 'node:stream'
import picocolors from 'picocolors'
import { withoutControls } from '../command/controls.ts'
import type { Progress, Reply } from '../command/reply.ts'

/** Where a reply ends up; the sizes of a terminal may change while it speaks. */
export interface Screen {
  readonly columns: number
  readonly rows: number
  readonly term: string
}

const DEFAULT_COLUMNS = 80
const REDRAW_EVERY_MS = 100
const SPINNER = ['|', '/', '-', '\\']
const CLEAR_LINE = '\r\u001B[2K'
/**
 * The only writer of a command's words. With a terminal both streams are one, as on any terminal, with colours and a live
 * progress line; without one they are apart and plain.
 */
export class ChannelReply implements Reply {
  readonly colors: Reply['colors']
  readonly #stdout: Writable
  readonly #stderr: Writable
  readonly #screen: Screen | undefined
  #live: LiveLine | undefined
  #closed = false

  constructor(stdout: Writable, stderr: Writable, screen: Screen | undefined) {
    this.#stdout = stdout
    this.#stderr = screen ? stdout : stderr
    this.#screen = screen
    this.colors = picocolors.createColors(screen !== undefined && screen.term !== 'dumb')
  }

  get columns(): number {
    return this.#screen?.columns ?? DEFAULT_COLUMNS
  }

  out(text: string): void {
    this.#lines(this.#stdout, text)
  }

  err(text: string): void {
    this.#lines(this.#stderr, text)
  }

  json(value: unknown): void {
    this.#lines(this.#stdout, JSON.stringify(value, undefined, 2))
  }

  progress(label: string): Progress {
    this.#live?.stop()
    if (!this.#screen || this.#screen.term === 'dumb') return plainProgress(label, line => this.err(line))
    const live = new LiveLine(this.#clean(label), this.#screen, {
      clean: text => this.#clean(text),
      // A screen nobody reads is not drawn again and again into memory.
      write: text => this.#stdout.writableNeedDrain || this.#write(this.#stdout, text)
    })
    this.#live = live
    return {
      update: (step, fraction) => live.update(step, fraction),
      done: outcome => {
        live.stop()
        if (outcome !== undefined) this.out(`${label}: ${outcome}`)
      }
    }
  }

  /** From here on nothing is said: the exit status is on its way. */
  close(): void {
    this.#live?.stop()
    this.#closed = true
  }

  #lines(stream: Writable, text: string): void {
    const end = text.endsWith('\n') ? '' : '\n'
    const lines = this.#clean(text + end)
    this.#live?.hide()
    this.#write(stream, this.#screen ? lines.replaceAll('\n', '\r\n') : lines)
    this.#live?.draw()
  }

  #clean(text: string): string {
    return withoutControls(text, { colors: this.colors.isColorSupported })
  }

  #write(stream: Writable, text: string): void {
    if (!this.#closed && stream.writable) stream.write(text)
  }
}

interface Canvas {
  clean(text: string): string
  write(text: string): unknown
}

/** One line on a terminal, drawn over and over. */
class LiveLine {
  readonly #label: string
  readonly #screen: Screen
  readonly #canvas: Canvas
  readonly #timer: NodeJS.Timeout
  #step = ''
  #fraction: number | undefined
  #frame = 0
  #stopped = false

  constructor(label: string, screen: Screen, canvas: Canvas) {
    this.#label = label
    this.#screen = screen
    this.#canvas = canvas
    this.#timer = setInterval(() => this.draw(), REDRAW_EVERY_MS)
    this.draw()
  }

  update(step: string, fraction: number | undefined): void {
    this.#step = this.#canvas.clean(step).replaceAll('\n', ' ')
    this.#fraction = fraction
  }

  draw(): void {
    if (this.#stopped) return
    const head =
      this.#fraction === undefined ? (SPINNER[this.#frame++ % SPINNER.length] as string) : drawBar(this.#fraction)
    const text = `${head} ${this.#label}${this.#step && `: ${this.#step}`}`
    this.#canvas.write(`${CLEAR_LINE}${text.slice(0, Math.max(1, this.#screen.columns - 1))}`)
  }

  hide(): void {
    if (!this.#stopped) this.#canvas.write(CLEAR_LINE)
  }

  stop(): void {
    this.hide()
    this.#stopped = true
    clearInterval(this.#timer)
  }
}

function drawBar(fraction: number): string {
  const part = Math.min(1, Math.max(0, fraction))
  const full = Math.round(part * 20)
  return `[${'#'.repeat(full)}${'.'.repeat(20 - full)}] ${String(Math.floor(part * 100)).padStart(3)} %`
}

/** A line for each new step and each further tenth; what a step tells after its first comma is no new step. */
function plainProgress(label: string, say: (line: string) => void): Progress {
  let last = ''
  return {
    update(step, fraction) {
      const tenth = fraction === undefined ? '' : ` ${Math.floor(Math.min(1, Math.max(0, fraction)) * 10) * 10} %`
      const [head = '', ...facts] = step.split(',')
      const line = head + tenth
      if (line !== last) say(`${label}: ${[line, ...facts].join(',')}`)
      last = line
    },
    done(outcome) {
      if (outcome !== undefined) say(`${label}: ${outcome}`)
    }
  }
}
