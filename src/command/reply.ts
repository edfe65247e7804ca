import type { Colors } from 'picocolors/types.ts'

/** What a command may say. The only implementation that writes to a channel is ssh/reply. Text may hold several lines. */
export interface Reply {
  readonly colors: Colors
  /** Width in characters; 80 without a terminal. */
  readonly columns: number
  /** One or more lines on standard output. */
  out(text: string): void
  /** One or more lines on standard error. */
  err(text: string): void
  /** One JSON document on standard output. */
  json(value: unknown): void
  /** A live line with a terminal, plain lines on standard error without one. */
  progress(label: string): Progress
}

export interface Progress {
  /** `fraction` between 0 and 1 draws a bar; undefined a spinner. */
  update(step: string, fraction?: number): void
  /** Ends the live line; `outcome`, if given, remains on the screen. */
  done(outcome?: string): void
}
