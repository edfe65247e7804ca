import { describeError, toUserError, UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import { maskWords, type Audit } from './audit.ts'
import type { Command, Invocation, Role } from './command.ts'
import { manageLine, plainManageLine } from './lines.ts'
import { Parsers } from './parser.ts'
import { nearestWord } from './usage.ts'

/** `words` splits the command line when called: a line that cannot be split is refused and audited like any other. */
export type RunCommand = (words: () => string[], invocation: Invocation) => Promise<number>

interface Parts {
  readonly commands: readonly Command[]
  readonly audit: Audit
  readonly log: Log
}

/** Runs one command of one session to its exit code: finds it, checks who may, audits, and turns failures into words. Never throws. */
export function createRunCommand({ commands, audit, log }: Parts): RunCommand {
  const parsers = new Parsers()
  return async (split, invocation) => {
    const { principal, reply, sessionId, node, address } = invocation
    let words: string[] = []
    let close: ReturnType<Audit['open']> | undefined
    const open = (shown: string) => {
      close = audit.open({
        session: sessionId,
        login: principal.login,
        user: principal.user?.name,
        fingerprint: principal.key.fingerprint,
        address,
        node: node.name,
        words: shown
      })
    }
    const startedAtMs = Date.now()
    let shown = '(refused before it was read)'
    let exitCode = 0
    let failure: UserError | undefined
    try {
      try {
        words = completeWords(principal.role, split())
        shown = maskWords(words, secretPositions(commands, words))
      } finally {
        open(shown)
      }
      const { command, args } = parseWords(commands, parsers, words, invocation)
      exitCode = (await command.handler(args, invocation)) ?? 0
    } catch (error) {
      failure = toUserError(error, sessionId)
      exitCode = failure.exitCode
      if (failure.reason === 'internal') log.error({ session: sessionId, err: failure.cause }, 'internal error')
      for (const line of describeError(failure)) reply.err(line)
    }
    try {
      close?.(exitCode, failure?.reason)
    } catch (error) {
      log.error({ session: sessionId, err: error }, 'audit row not closed')
    }
    log.info(
      {
        session: sessionId,
        login: principal.login,
        user: principal.user?.name,
        fingerprint: principal.key.fingerprint,
        address,
        node: node.name,
        words: shown,
        exitCode,
        reason: failure?.reason,
        durationMs: Date.now() - startedAtMs
      },
      'command'
    )
    return exitCode
  }
}

/** The login name may be the verb: `register@` and `enroll@`; a member's bare login starts the container. `--help` anywhere asks for help. */
function completeWords(role: Role, words: string[]): string[] {
  const options = words.includes('--') ? words.slice(0, words.indexOf('--')) : words
  const wantsHelp = options.some(word => word === '--help' || word === '-h') || words[0] === 'help'
  const about = options.filter(word => !word.startsWith('-') && word !== 'help').slice(0, 1)
  if (wantsHelp) return ['help', ...about, ...words.slice(options.length)]
  if (role !== 'member') return [role, ...words]
  return words.length === 0 ? ['start'] : words
}

export const verbOf = (command: Command): string => command.command.split(' ')[0] as string

function secretPositions(commands: readonly Command[], words: readonly string[]): readonly number[] {
  return commands.find(command => verbOf(command) === words[0])?.secretWords ?? []
}

function parseWords(commands: readonly Command[], parsers: Parsers, words: string[], { principal, node }: Invocation) {
  const command = commands.find(candidate => verbOf(candidate) === words[0])
  if (!command) {
    throw unknownCommand(commands, words[0] ?? '', { principal, node })
  }
  if (!command.allowedFor.includes(principal.role)) {
    throw new UserError('not-allowed', `\`${words[0]}\` is not for the login \`${principal.login}\`.`, {
      hint: `Log in with your own user name: ssh USER@${node.name}-manage ${words[0]}`
    })
  }
  // Who enrols has no config yet, and no key that could ask for help.
  const hint =
    principal.role === 'enroll'
      ? `Type the line of your invite: ${plainManageLine(node, 'enroll', 'NAME CODE')}`
      : `See: ${manageLine(node, `help ${words[0]}`)}`
  return { command, args: parsers.parse(command, words.slice(1), hint) }
}

/** The failure for a word that is no command, with the one it resembles among those this login may type. */
export function unknownCommand(
  commands: readonly Command[],
  word: string,
  { principal, node }: Pick<Invocation, 'principal' | 'node'>
): UserError {
  const near = nearestWord(word, commands.filter(each => each.allowedFor.includes(principal.role)).map(verbOf))
  const details = `${JSON.stringify(word)}${near === undefined ? '' : ` Did you mean ${near}?`}`
  return new UserError('unknown-command', details, { hint: `See: ${manageLine(node, 'help')}` })
}
