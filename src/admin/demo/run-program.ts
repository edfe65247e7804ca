import { spawn } from 'node:child_process'
import { once } from 'node:events'

export interface Ran {
  readonly code: number
  readonly stdout: string
  /** Standard output and standard error as they came. */
  readonly shown: string
}

interface Options {
  /** Kills the program and what it started. */
  signal?: AbortSignal
  /** Also writes its standard error to ours as it comes. */
  showStderr?: boolean
  cwd?: string
  /** Gets standard output and standard error line by line, as they come. */
  onLine?: (line: string) => void
}

/**
 * Runs a program to its end without a terminal, so that ssh cannot ask anything, and with nothing on standard input.
 * @returns its exit code, 128 when a signal ended it, and its output
 * @throws what `signal` was aborted with
 */
export async function runProgram(
  argv: readonly string[],
  { signal, showStderr = false, cwd, onLine }: Options = {}
): Promise<Ran> {
  signal?.throwIfAborted()
  const [program = '', ...words] = argv
  const child = spawn(program, words, { detached: true, cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  const kill = () => process.kill(-(child.pid as number), 'SIGTERM')
  signal?.addEventListener('abort', kill)
  let [stdout, shown, told] = ['', '', 0]
  const tell = (end = shown.lastIndexOf('\n') + 1): void => {
    if (end > told) for (const line of shown.slice(told, end).replace(/\n$/, '').split('\n')) onLine?.(line)
    told = Math.max(told, end)
  }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    shown += text
    tell()
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    shown += text
    tell()
    if (showStderr) process.stderr.write(text)
  })
  try {
    const [code] = (await once(child, 'close')) as [number | null]
    tell(shown.length)
    signal?.throwIfAborted()
    return { code: code ?? 128, stdout, shown }
  } finally {
    signal?.removeEventListener('abort', kill)
  }
}
