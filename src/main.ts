import { randomBytes } from 'node:crypto'
import yargs, { type Argv } from 'yargs'
import { type AdminCommand, type AdminGroup, type AdminSession } from './admin/admin-command.ts'
import { loadCommands } from './admin/commands.ts'
import { Console } from './admin/console.ts'
import { perform } from './admin/perform.ts'
import { BERTH_VERSION } from './admin/version.ts'
import { DEFAULT_CONFIG_PATH, findConfigPath, loadConfig } from './config.ts'
import { describeError, toUserError, UserError } from './errors.ts'
import { refuseOwnOptions, refuseRest, sayWhatIsMissing } from './command/usage.ts'

const console = new Console()
let exitCode = 0

function session(option: string | undefined): AdminSession {
  const configPath = findConfigPath(option)
  return {
    console,
    configPath,
    loadConfig: () => loadConfig(configPath),
    async perform(action, params) {
      try {
        return await perform(loadConfig(configPath), action, params, console.report)
      } finally {
        console.endProgress()
      }
    }
  }
}

function addTo(parent: Argv, command: AdminCommand | AdminGroup, path = 'berth'): Argv {
  if ('commands' in command) {
    return parent.command(command.command, command.describe, group => {
      for (const member of command.commands) addTo(group, member, `${path} ${command.command}`)
      return group.demandCommand(1, `Say what to do: ${command.commands.map(verb).join(', ')}.`)
    })
  }
  return parent.command(
    command.command,
    command.describe,
    own => {
      const built = command.builder(own.updateStrings(sayWhatIsMissing(`${path} ${command.command}`)))
      return command.epilogue === undefined ? built : built.epilogue(command.epilogue.replaceAll('\n', ' '))
    },
    async args => {
      refuseRepeated(args, command.repeatable ?? [])
      exitCode = (await command.handler(args, session(args['config'] as string | undefined))) ?? 0
    }
  )
}

/** yargs makes a list of an option that is given twice; only where that is meant does a command expect one. */
function refuseRepeated(args: Record<string, unknown>, repeatable: readonly string[]): void {
  for (const [name, value] of Object.entries(args)) {
    if (!Array.isArray(value) || name === '_' || repeatable.includes(name)) continue
    throw new UserError('usage', `--${name} is given more than once.`, { hint: 'Say which of them is meant.' })
  }
}

const verb = (command: AdminCommand): string => command.command.split(' ')[0] as string

/** Strict, and without guesses: a key's comment `1e3` or a name `no-op` stays what was typed. */
function createParser(commands: readonly (AdminCommand | AdminGroup)[], help: string): Argv {
  const parser = yargs()
    .scriptName('berth')
    .locale('en')
    .parserConfiguration({
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'dot-notation': false,
      'boolean-negation': false
    })
    .usage('$0: one LXC container per member on every GPU server of a lab')
    .option('config', {
      type: 'string',
      global: true,
      requiresArg: true,
      describe: `berth.yaml; default: $BERTH_CONFIG, else ${DEFAULT_CONFIG_PATH}`
    })
    .version(BERTH_VERSION)
    .help()
    .alias('help', 'h')
    .strict()
    .demandCommand(1, 'Say what to do.')
    .recommendCommands()
    .wrap(Math.min(console.columns, 120))
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message: string | null, error: Error | undefined) => {
      // yargs throws what its parser finds, and passes on what its validation finds.
      if (error !== undefined && error.name !== 'YError') throw error
      throw new UserError('usage', message ?? error?.message, { hint: `See: ${help}` })
    })
    .epilogue('First steps: berth init; berth doctor; systemctl enable --now berth; berth invite NAME.')
  for (const command of commands) addTo(parser, command)
  return parser
}

/** The files of berth are root's: who is refused by the file system has typed the right thing as the wrong user. */
function explainDenial(thrown: unknown): unknown {
  const { code, path } = thrown as NodeJS.ErrnoException
  if (code !== 'EACCES') return thrown
  return new UserError('not-allowed', `${path ?? 'A file'}: permission denied.`, {
    hint: 'Type it as root: sudo berth …'
  })
}

/** Shows what went wrong as describeError words it; of our own bugs the stack, which an admin can send on. */
function fail(thrown: unknown): number {
  const error = toUserError(explainDenial(thrown), `berth-${randomBytes(4).toString('hex')}`)
  if (error.cause !== undefined && error.reason === 'internal')
    console.err(String((error.cause as Error).stack ?? error.cause))
  const [first, ...rest] = describeError(error)
  console.err([console.colors.red(`berth: ${first}`), ...rest].join('\n'))
  return error.exitCode
}

try {
  const argv = process.argv.slice(2)
  const commands = await loadCommands(argv[0])
  const help = commands.length === 1 ? `berth ${argv[0]} --help` : 'berth --help'
  refuseOwnOptions(argv, `See: ${help}`)
  refuseRest(argv, `See: ${help}`)
  await createParser(commands, help).parseAsync(argv.length === 0 ? ['--help'] : argv)
} catch (error) {
  exitCode = fail(error)
}
process.exitCode = exitCode
