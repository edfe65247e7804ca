import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

interface Options {
  /** Kills the program and what it started. */
  signal?: AbortSignal
  /** Lets its standard error through as it comes, instead of collecting it. */
  showStderr?: boolean
  cwd?: string
}

/**
 * Runs a program to its end without a terminal, so that ssh cannot ask anything, and with nothing on standard input.
 * @returns its exit code (128 + n after signal n is told as 128) and output
 * @throws what `signal` was aborted with
 */
export async function runProgram(
  argv: readonly string[],
  { signal, showStderr = false, cwd }: Options = {}
): Promise<Ran> {
  signal?.throwIfAborted()
  const [program = '', ...words] = argv
  const child = spawn(program, words, {
    detached: true,
    cwd,
    stdio: ['ignore', 'pipe', showStderr ? 'inherit' : 'pipe']
  })
  const kill = () => process.kill(-(child.pid as number), 'SIGTERM')
  signal?.addEventListener('abort', kill)
  try {
    const [stdout, stderr, [code]] = await Promise.all([
      text(child.stdout as Readable),
      child.stderr === null ? '' : text(child.stderr),
      once(child, 'close') as Promise<[number | null]>
    ])
    signal?.throwIfAborted()
    return { code: code ?? 128, stdout, stderr }
  } finally {
    signal?.removeEventListener('abort', kill)
  }
}
