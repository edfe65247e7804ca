import { once } from 'node:events'
import { createInterface } from 'node:readline/promises'
import { isatty } from 'node:tty'
import picocolors from 'picocolors'
import type { Colors } from 'picocolors/types.ts'
import { withoutControls } from '../command/controls.ts'
import { drawTable } from '../command/table.ts'
import type { Report } from '../operations/operations.ts'
import { ProgressLine } from './progress-line.ts'

/** The admin's terminal, or the pipes in its place. Data goes to standard output, everything else to standard error. */
export class Console {
  readonly colors: Colors
  readonly columns: number
  #progress: ProgressLine | undefined

  constructor() {
    this.colors = picocolors.createColors(isatty(1) && process.stdout.hasColors())
    this.columns = process.stdout.columns || 80
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      // `berth audit | head`: whoever reads has had enough.
      if (error.code === 'EPIPE') process.exit(0)
      throw error
    })
  }

  out(text: string): void {
    this.endProgress()
    process.stdout.write(`${this.#clean(text)}\n`)
  }

  err(text: string): void {
    this.endProgress()
    process.stderr.write(`${this.#clean(text)}\n`)
  }

  json(value: unknown): void {
    this.out(JSON.stringify(value, undefined, 2))
  }

  /** Rows under a head, in columns without rules: easy on the eye and on `awk`. */
  table(head: string[], rows: string[][]): void {
    this.out(
      drawTable(
        head.map(cell => this.colors.bold(cell)),
        rows
      )
    )
  }

  /** Asks on the terminal; undefined where there is none. */
  async ask(question: string): Promise<string | undefined> {
    if (!process.stdin.isTTY) return undefined
    this.endProgress()
    const prompt = createInterface({ input: process.stdin, output: process.stderr })
    // At the end of input and at Ctrl-C the question is never answered, only closed.
    const closed = once(prompt, 'close').then(() => '')
    try {
      return (await Promise.race([prompt.question(question), closed])).trim()
    } finally {
      prompt.close()
    }
  }

  /** A live line on a terminal, a line a step elsewhere. It vanishes with the next text. */
  readonly report: Report = (step, fraction) => {
    this.#progress ??= new ProgressLine(process.stderr)
    this.#progress.update(this.#clean(step), fraction)
  }

  #clean(text: string): string {
    return withoutControls(text, { colors: this.colors.isColorSupported })
  }

  endProgress(): void {
    this.#progress?.end()
    this.#progress = undefined
  }
}

/** `2026-11-22 19:08` in the machine's time zone. */
export function formatTime(atMs: number): string {
  const local = new Date(atMs - new Date(atMs).getTimezoneOffset() * 60_000)
  return local.toISOString().slice(0, 16).replace('T', ' ')
}
