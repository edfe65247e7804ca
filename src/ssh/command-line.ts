import { UserError } from '../errors.ts'

const MAX_COMMAND_LINE_BYTES = 4096

/** What a shell would act upon. */
const SHELL_CHARACTERS = /[;&|<>()`$]/

/**
 * Splits a command line into words as a POSIX shell does (quotes and backslashes), and nothing more. What only a shell could
 * do is refused instead of taken literally: whoever typed it expected something else to happen. Finding the words and finding
 * what to refuse is one pass, so that the two can never disagree about where a quote ends.
 * @throws UserError `command-line-refused`
 */
export function splitCommandLine(line: string): string[] {
  checkCharacters(line)
  const words: string[] = []
  let word: string | undefined
  let quote = ''
  for (let index = 0; index < line.length; index++) {
    const character = line.charAt(index)
    if (character === quote) {
      quote = ''
    } else if (quote === "'") {
      word += character
    } else if (character === '\\') {
      const next = line.charAt(++index)
      if (next === '') throw refused('It ends in a backslash.')
      word = (word ?? '') + (quote === '"' && !/["\\$`]/.test(next) ? `\\${next}` : next)
    } else if (quote === '"' ? /[$`]/.test(character) : SHELL_CHARACTERS.test(character)) {
      throw refused(
        `There is no shell here for its ${JSON.stringify(character)}.`,
        'Quote it if you mean the character itself.'
      )
    } else if (quote === '' && /['"]/.test(character)) {
      quote = character
      word ??= ''
    } else if (quote === '' && character === ' ') {
      if (word !== undefined) words.push(word)
      word = undefined
    } else {
      word = (word ?? '') + character
    }
  }
  if (quote !== '') throw refused('A quote is not closed.')
  if (word !== undefined) words.push(word)
  return words
}

function checkCharacters(line: string): void {
  const sizeBytes = Buffer.byteLength(line)
  if (sizeBytes > MAX_COMMAND_LINE_BYTES)
    throw refused(`It has ${sizeBytes} bytes; ${MAX_COMMAND_LINE_BYTES} is the most.`)
  if (line.includes('\uFFFD')) throw refused('It is not valid UTF-8.')
  const odd = /[\p{C}\p{Zl}\p{Zp}]/u.exec(line)
  if (odd) {
    const code = (odd[0].codePointAt(0) as number).toString(16).toUpperCase().padStart(4, '0')
    throw refused(
      code === '000A' ? 'It has more than one line.' : `It holds the unprintable character U+${code}.`,
      'Type one command, on one line.'
    )
  }
}

const refused = (details: string, hint?: string): UserError =>
  new UserError('command-line-refused', details, hint === undefined ? {} : { hint })

/** Programs that OpenSSH's file tools start at the other end. */
const FILE_TOOLS = new Set(['scp', 'rsync', 'sftp', 'sftp-server', '/usr/lib/openssh/sftp-server'])

/** @throws UserError `command-line-refused` with the host files do go to */
export function refuseFileTransfer(program: string | undefined, nodeName: string): void {
  if (program !== undefined && FILE_TOOLS.has(program)) {
    throw refused(`${nodeName}-manage takes commands, not files.`, `Files go to the container: scp FILE ${nodeName}:`)
  }
}
