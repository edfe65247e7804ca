import { UserError } from '../errors.ts'
import type { Keys, UserKey } from './keys.ts'
import { parsePublicKey } from './public-key.ts'
import type { User } from './users.ts'

const MAX_KEYS = 100

/** The keys of a text: one a line, as in `.pub` and authorized_keys files; empty lines and those with `#` in front are passed over. */
export const keyLines = (text: string): string[] =>
  text
    .split(/\r?\n/)
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))

/**
 * Adds all or none: one bad line refuses the whole text. Keys the user has already are passed over. Returns the new ones.
 * @throws UserError `bad-key`, `key-taken`; `not-allowed` beyond 100 keys
 */
export function addKeyLines(keys: Keys, user: User, lines: readonly string[]): UserKey[] {
  const parsed = lines.map(line => parsePublicKey(line))
  if (keys.listFor(user).length + parsed.length > MAX_KEYS) {
    throw new UserError('not-allowed', `A member may have ${MAX_KEYS} keys.`, { hint: 'Remove some first.' })
  }
  return keys.addAll(user, parsed)
}
