import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const DIRECTORY = join(import.meta.dirname, '../../templates')
const cache = new Map<string, string>()

/** The text of templates/NAME, read once. */
export function readTemplate(name: string): string {
  const known = cache.get(name)
  if (known !== undefined) return known
  const text = readFileSync(join(DIRECTORY, name), 'utf8')
  cache.set(name, text)
  return text
}
