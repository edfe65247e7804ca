import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The one example of docs/web.md in that language which holds these words, for a test to run it: what is told must work. */
export function documentedExample(language: string, words: string): string {
  const text = readFileSync(join(import.meta.dirname, '../docs/web.md'), 'utf8')
  const found = [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].filter(
    ([, tag, example]) => tag === language && example?.includes(words)
  )
  if (found.length !== 1) throw new Error(`docs/web.md has ${found.length} examples with ${words}`)
  return found[0]?.[2] as string
}
