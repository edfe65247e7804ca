import { randomBytes } from 'node:crypto'

/**
 * LXD 5.0 drops what a program wrote to a terminal just before it ended (shared/netutils, ExecReaderToChannel: seen in one of
 * five runs). So the program runs under a shell that writes its exit code after its output, marked, and then only waits to be killed.
 * It shares the program's process group, through which signals reach the program, and KILL whatever else ignores the hangup.
 */
export interface TerminalWrap {
  readonly command: readonly string[]
  /** Sends a signal to the program, from another process of the same container; names without SIG. */
  signalCommand(name: string): readonly string[]
  /** What to show of the next piece of output, and the exit code once the program has ended: what comes after is not its own. */
  unwrap(piece: Buffer): { shown: Buffer; exitCode?: number }
}

// What the keyboard or a signal sends goes to the whole group: the shell must survive the program.
const RUN = 'trap : HUP INT QUIT TERM USR1 USR2; "$@"; printf "\\036%s:%d\\036" "$0" "$?"; exec sleep 60'
const SIGNAL = `for path in /proc/[0-9]*; do
  pid=\${path#/proc/}
  [ "$pid" != "$$" ] && tr '\\000' '\\n' <"$path/cmdline" | grep -qx "$0" && kill "-$1" "-$pid"
done`
const RECORD_SEPARATOR = 0x1e

export function wrapTerminal(command: readonly string[]): TerminalWrap {
  const name = `berth-${randomBytes(16).toString('hex')}`
  const mark = new RegExp(`\\x1e${name}:(\\d{1,3})\\x1e`)
  const opening = `\x1e${name}:`
  const mayBeMark = (tail: string) =>
    opening.startsWith(tail) || (tail.startsWith(opening) && /^\d{1,3}$/.test(tail.slice(opening.length)))
  let held: Buffer = Buffer.alloc(0)
  return {
    command: ['/bin/sh', '-c', RUN, name, ...command],
    signalCommand: signal => ['/bin/sh', '-c', SIGNAL, name, signal],
    unwrap(piece) {
      const bytes = Buffer.concat([held, piece])
      const found = mark.exec(bytes.toString('latin1'))
      if (found) return { shown: bytes.subarray(0, found.index), exitCode: Number(found[1]) }
      let from = bytes.indexOf(RECORD_SEPARATOR)
      while (from !== -1 && !mayBeMark(bytes.toString('latin1', from))) from = bytes.indexOf(RECORD_SEPARATOR, from + 1)
      const end = from === -1 ? bytes.length : from
      held = bytes.subarray(end)
      return { shown: bytes.subarray(0, end) }
    }
  }
}
