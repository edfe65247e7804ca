import { UserError } from '../errors.ts'

/** yargs' words for a missing word, as strings for its `updateStrings`: the line to type instead of a count. `user show <name>` → `user show NAME`. */
export function sayWhatIsMissing(command: string): Record<string, string> {
  const line = command.replaceAll(/<(\w+)>/g, (_, word: string) => word.toUpperCase())
  const text = `Something is missing: ${line}`
  const plural = { one: text, other: text } as unknown as string
  return { 'Not enough non-option arguments: got %s, need at least %s': plural }
}

/** Under these names yargs keeps the words and the program's name, and lets options of that name take their place. */
const OWN_OPTION = /^--?(_|\$0)(=|$)|^-[^-=]*_/

/** @throws UserError `usage` for options that yargs would take for its own; they are nobody's */
export function refuseOwnOptions(words: readonly string[], hint: string): void {
  const options = words.includes('--') ? words.slice(0, words.indexOf('--')) : words
  const found = options.find(word => OWN_OPTION.test(word))
  if (found !== undefined) throw new UserError('usage', `Unknown option: ${found}`, { hint })
}

/** @throws UserError `usage` for words after `--`, which yargs would neither read nor refuse */
export function refuseRest(words: readonly string[], hint: string): void {
  const [, first] = words.includes('--') ? words.slice(words.indexOf('--')) : []
  if (first !== undefined) throw new UserError('usage', `Unknown argument after --: ${first}`, { hint })
}

const MAX_SLIPS = 2

/** The known word that `typed` most likely was meant to be; undefined when none is near. */
export function nearestWord(typed: string, known: readonly string[]): string | undefined {
  const [best] = known
    .map(word => ({ word, slips: countSlips(typed.toLowerCase(), word) }))
    .toSorted((one, other) => one.slips - other.slips)
  return best && best.slips <= Math.min(MAX_SLIPS, typed.length / 2) ? best.word : undefined
}

/** Letters to add, drop or change (Levenshtein). */
function countSlips(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (let i = 1; i <= from.length; i++) {
    const next = [i]
    for (let j = 1; j <= to.length; j++) {
      const changed = (row[j - 1] as number) + (from[i - 1] === to[j - 1] ? 0 : 1)
      next.push(Math.min(changed, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[to.length] as number
}
