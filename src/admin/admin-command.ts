import type { ArgumentsCamelCase, Argv } from 'yargs'
import type { Config } from '../config.ts'
import type { Action } from './action.ts'
import type { Console } from './console.ts'

/** What a subcommand of `berth` gets beside its arguments. */
export interface AdminSession {
  readonly console: Console
  /** Where berth.yaml is or would be; the file need not exist. */
  readonly configPath: string
  /** @throws UserError `no-config`, `bad-config` */
  loadConfig(): Config
  /** Runs an action in `berth serve` where it runs, else here; shows its progress. */
  perform<Params, Result>(action: Action<Params, Result>, params: Params): Promise<Result>
}

/** One subcommand of `berth`, or one of a group such as `user`. */
export interface AdminCommand<Arguments = object> {
  /** yargs command string: `add NAME` is written `add <name>`. */
  readonly command: string
  readonly describe: string
  /** Lines below the options in the help. */
  readonly epilogue?: string
  /** Options that may be given more than once. */
  readonly repeatable?: readonly string[]
  builder(yargs: Argv): Argv<Arguments>
  /** Resolves to the exit code, 0 when nothing is returned. */
  handler(args: ArgumentsCamelCase<Arguments>, session: AdminSession): Promise<number | void> | number | void
}

export interface AdminGroup {
  readonly command: string
  readonly describe: string
  readonly commands: readonly AdminCommand[]
}

/** Keeps the inferred argument type between builder and handler, and forgets it for the list. */
export function defineCommand<Arguments>(command: AdminCommand<Arguments>): AdminCommand {
  return command
}

export const jsonOption = { type: 'boolean', default: false, describe: 'print one JSON document' } as const
