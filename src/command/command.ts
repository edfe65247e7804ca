import type { Readable, Writable } from 'node:stream'
import type { ArgumentsCamelCase, Argv } from 'yargs'
import type { NodeConfig } from '../config.ts'
import type { PublicKey } from '../directory/public-key.ts'
import type { User } from '../directory/users.ts'
import type { Reply } from './reply.ts'

/** How somebody logged in: as themselves, as `register` with an enrolled key, or as `enroll` with any key. */
export type Role = 'member' | 'register' | 'enroll'

/** Who stands at the other end, after a verified signature. */
export interface Principal {
  readonly role: Role
  /** The user name of the SSH login, as typed. */
  readonly login: string
  /** The key that signed; for a certificate, the certified key. */
  readonly key: PublicKey
  /** The key's owner; undefined only for `enroll` with a key nobody has. */
  readonly user: User | undefined
}

/** The pty a client asked for; sizes in characters. */
export interface Terminal {
  readonly term: string
  columns: number
  rows: number
  /** Called at each window-change (RFC 4254 section 6.7). */
  onResize(listener: (columns: number, rows: number) => void): void
  /** From here on keys reach stdin untouched; before, ssh edits and echoes lines, ^C interrupts and ^D ends stdin. */
  raw(): void
}

/** One command of one session. */
export interface Invocation {
  readonly sessionId: string
  readonly principal: Principal
  readonly node: NodeConfig
  /** Address of the client. */
  readonly address: string
  /** What the client calls itself (RFC 4253 section 4.2), as `OpenSSH_9.2p1`. */
  readonly software: string
  readonly reply: Reply
  readonly stdin: Readable
  /** stdout and stderr of the channel as bytes, for `shell`; everything else speaks through `reply`. */
  readonly stdout: Writable
  readonly stderr: Writable
  readonly terminal: Terminal | undefined
  /** Signals the client sends (RFC 4254 section 6.9), names without SIG. */
  onSignal(listener: (name: string) => void): void
  /** Aborted when the channel or connection is gone; an operation that has begun does not listen to it. */
  readonly gone: AbortSignal
}

/** A verb a member may type: a yargs command plus who may type it. */
export interface Command<Arguments = object> {
  /** yargs command string, the verb first: `stop`, `help [command]`. */
  readonly command: string
  readonly describe: string
  /** Lines below the options in `help VERB`. */
  readonly epilogue?: string
  readonly allowedFor: readonly Role[]
  /** Positions (from 0, after the verb) of words that are secrets and never reach log or audit. */
  readonly secretWords?: readonly number[]
  builder(yargs: Argv): Argv<Arguments>
  /** Resolves to the exit code, 0 when nothing is returned. */
  handler(args: ArgumentsCamelCase<Arguments>, invocation: Invocation): Promise<number | void>
}

/** Keeps the inferred argument type between builder and handler, and forgets it for the list. */
export function defineCommand<Arguments>(command: Command<Arguments>): Command {
  return command
}
