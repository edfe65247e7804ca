import type { Database } from '../db/open.ts'
import { hashCode, makeCode } from '../directory/one-time-code.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'

/** `replace` confirms both `recover` and `rebuild`. */
type TokenAction = 'snapshot' | 'replace' | 'remove-snapshot'

/** All that a token is good for: nobody else's container, no other node, no other command, no other snapshot. */
export interface TokenPurpose {
  readonly user: User
  readonly node: string
  readonly action: TokenAction
  /** The name of the snapshot to remove. */
  readonly subject?: string
}

const TOKEN_BITS = 128
const TOKEN_VALID_MS = 5 * 60_000

/** One-time confirmations: 128 random bits in 26 letters, good for five minutes; only their SHA-256 is kept. */
export class Tokens {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  issue({ user, node, action, subject = '' }: TokenPurpose): { token: string; expiresAtMs: number } {
    const token = makeCode(TOKEN_BITS)
    const now = Date.now()
    const expiresAtMs = now + TOKEN_VALID_MS
    this.#database
      .transaction(() => {
        this.#database.prepare('DELETE FROM tokens WHERE expires_at_ms < ?').run(now)
        this.#database
          .prepare(
            'INSERT INTO tokens (user_id, node, action, subject, token_sha256, expires_at_ms) VALUES (?, ?, ?, ?, ?, ?)'
          )
          .run(user.id, node, action, subject, hashCode(token), expiresAtMs)
      })
      .immediate()
    return { token, expiresAtMs }
  }

  /**
   * Is the token good for that? It stays so: for what is looked at between asking and doing.
   * @throws UserError `token-invalid` as `spend`
   */
  check(token: string, purpose: TokenPurpose, again: string): void {
    const found = this.#database.prepare(`SELECT id FROM tokens ${GOOD_FOR}`).get(bind(token, purpose))
    if (!found) throw invalid(again)
  }

  /**
   * Uses the token up, whoever else tries at the same time.
   * @param again the line that gives a new one
   * @throws UserError `token-invalid` for a wrong, foreign, used or expired one alike
   */
  spend(token: string, purpose: TokenPurpose, again: string): void {
    const spent = this.#database
      .prepare(`UPDATE tokens SET used_at_ms = $now ${GOOD_FOR} RETURNING id`)
      .get(bind(token, purpose))
    if (!spent) throw invalid(again)
  }
}

const GOOD_FOR = `WHERE token_sha256 = $hash AND user_id = $userId AND node = $node AND action = $action AND subject = $subject
  AND used_at_ms IS NULL AND expires_at_ms > $now`

const bind = (token: string, { user, node, action, subject = '' }: TokenPurpose) => ({
  now: Date.now(),
  hash: hashCode(token),
  userId: user.id,
  node,
  action,
  subject
})

const invalid = (again: string): UserError =>
  new UserError('token-invalid', 'Nothing was changed.', { hint: `Get a new one with: ${again}` })
