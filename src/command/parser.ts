import type { Argv } from 'yargs'
import yargs from 'yargs'
import { UserError } from '../errors.ts'
import type { Command } from './command.ts'
import { refuseOwnOptions, refuseRest, sayWhatIsMissing } from './usage.ts'

type Arguments = Parameters<Command['handler']>[0]
type Parse = (words: readonly string[], hint: string) => Arguments

/** A name for each command, beside that of the default one, which no command line can hold. Left out it would be the word `$0`. */
const UNTYPED = '\0'

/**
 * Reads what follows the verb. Each command has one yargs, made once: that costs several times what a parse does. Two parses
 * never overlap, since yargs calls its handler before `parse` returns.
 */
export class Parsers {
  readonly #ready = new Map<Command, Parse>()

  /** @throws UserError `usage` in yargs' words, with the hint */
  parse(command: Command, words: readonly string[], hint: string): Arguments {
    const parse = this.#ready.get(command) ?? createParse(command)
    // A yargs that threw is left half reset: only one that did not is used again.
    this.#ready.delete(command)
    const args = parse(words, hint)
    this.#ready.set(command, parse)
    return args
  }
}

/** The command is yargs' default command here: for a named one yargs would draw the help at every parse. */
function createParse(command: Command): Parse {
  let args: Arguments | undefined
  let hint = ''
  const [, ...positions] = command.command.split(' ')
  const takesAnyWords = command.command.endsWith('..]')
  const strings = sayWhatIsMissing(command.command)
  const parser = strictYargs()
    .command({
      command: [['$0', ...positions].join(' '), UNTYPED],
      describe: command.describe,
      builder: y => command.builder(y),
      handler: (parsed: Arguments) => void (args = parsed)
    })
    .fail((message: string | null, error) => {
      // yargs throws what its parser finds, and passes on what its validation finds.
      throw message === null ? error : new UserError('usage', message, { hint })
    })
  return (words, nextStep) => {
    args = undefined
    hint = nextStep
    refuseOwnOptions(words, hint)
    if (!takesAnyWords) refuseRest(words, hint)
    // All yargs of a process share their strings.
    void parser.updateStrings(strings).parse([...words], {}, () => {})
    if (!args) throw new UserError('usage', undefined, { hint })
    return args
  }
}

/** What `help VERB` prints: usage, positions, options, epilogue. */
export function commandHelp(command: Command, nodeName: string): string {
  const [verb = ''] = command.command.split(' ')
  let text = ''
  void strictYargs()
    .scriptName(`ssh ${nodeName}-manage`)
    .wrap(78)
    .help('help')
    .command({
      command: command.command,
      describe: command.describe,
      builder: y => command.builder(command.epilogue === undefined ? y : y.epilogue(command.epilogue)),
      handler: () => {}
    })
    .parse([verb, '--help'], {}, (_error, _args, output) => {
      text = output
    })
  return text
}

function strictYargs(): Argv {
  return yargs([]).locale('en').help(false).version(false).exitProcess(false).strict().parserConfiguration({
    'parse-numbers': false,
    'parse-positional-numbers': false,
    'duplicate-arguments-array': false,
    'dot-notation': false,
    'boolean-negation': false,
    'populate--': true
  })
}
