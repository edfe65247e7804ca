import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The one example of the README in that language which holds these words, for a test to run it: what is told must work. */
export function readmeExample(language: string, words: string): string {
  const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8')
  const found = [...readme.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].filter(
    ([, tag, text]) => tag === language && text?.includes(words)
  )
  if (found.length !== 1) throw new Error(`the README has ${found.length} examples with ${words}`)
  return found[0]?.[2] as string
}
