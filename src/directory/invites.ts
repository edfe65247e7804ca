import type { Database } from '../db/open.ts'
import { UserError } from '../errors.ts'
import type { Keys } from './keys.ts'
import { hashCode, makeCode } from './one-time-code.ts'
import type { PublicKey } from './public-key.ts'
import type { User, Users } from './users.ts'

const INVITE_VALID_MS = 7 * 24 * 3600 * 1000

/** One-time enrolment codes: 80 random bits as XXXX-XXXX-XXXX-XXXX; only their SHA-256 is kept. */
export class Invites {
  readonly #database: Database
  readonly #users: Users
  readonly #keys: Keys

  constructor(database: Database, users: Users, keys: Keys) {
    this.#database = database
    this.#users = users
    this.#keys = keys
  }

  /** A new code for a user. @returns with it whether one from before, still good, has `ended` by that */
  create(user: User): { code: string; expiresAtMs: number; ended: boolean } {
    const code = makeCode(80).replace(/(.{4})(?=.)/g, '$1-')
    const now = Date.now()
    const expiresAtMs = now + INVITE_VALID_MS
    return this.#database
      .transaction(() => {
        this.#database.prepare('DELETE FROM invites WHERE expires_at_ms < ?').run(now)
        const { changes } = this.#database
          .prepare('DELETE FROM invites WHERE user_id = ? AND used_at_ms IS NULL')
          .run(user.id)
        this.#database
          .prepare('INSERT INTO invites (user_id, code_sha256, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?)')
          .run(user.id, hashCode(code), now, expiresAtMs)
        return { code, expiresAtMs, ended: changes > 0 }
      })
      .immediate()
  }

  /** Would the code let somebody in? Spends nothing, so that what only looks at links does not use them up. */
  peek(code: string): boolean {
    return (
      this.#database
        .prepare('SELECT 1 FROM invites WHERE code_sha256 = ? AND used_at_ms IS NULL AND expires_at_ms > ?')
        .get(hashCode(code), Date.now()) !== undefined
    )
  }

  /** Spends a code for one sign-in to the web pages, where its user then adds a key. @throws UserError `invite-invalid`, `user-disabled` */
  redeemForWeb(code: string): User {
    return this.#database
      .transaction(() => {
        const now = Date.now()
        const spent = this.#database
          .prepare<[number, Buffer, number], { user_id: number }>(
            `UPDATE invites SET used_at_ms = ? WHERE code_sha256 = ? AND used_at_ms IS NULL AND expires_at_ms > ?
             RETURNING user_id`
          )
          .get(now, hashCode(code), now)
        return this.#invited(spent)
      })
      .immediate()
  }

  /**
   * Spends a code and gives its user the key that was proven; both or neither. A user who has the key already needs no code.
   * @throws UserError `invite-invalid` for a wrong, foreign, used or expired code alike; `user-disabled`, `key-taken`
   */
  redeem(userName: string, code: string, key: PublicKey): { user: User; added: boolean } {
    return this.#database
      .transaction(() => {
        const now = Date.now()
        const spent = this.#database
          .prepare<[number, string, Buffer, number], { user_id: number }>(
            `UPDATE invites SET used_at_ms = ?
             WHERE user_id = (SELECT id FROM users WHERE name = ?) AND code_sha256 = ? AND used_at_ms IS NULL AND expires_at_ms > ?
             RETURNING user_id`
          )
          .get(now, userName, hashCode(code), now)
        const known = this.#keys.find(key.fingerprint)
        const owner = known && this.#users.byId(known.userId)
        // Who has typed the line before is told so, and not that the code is used.
        const user = this.#invited(spent ?? (owner?.name === userName ? { user_id: owner.id } : undefined))
        if (owner?.id === user.id) return { user, added: false }
        this.#keys.add(user, key)
        return { user, added: true }
      })
      .immediate()
  }

  #invited(spent: { user_id: number } | undefined): User {
    const user = spent && this.#users.byId(spent.user_id)
    if (!user)
      throw new UserError('invite-invalid', undefined, {
        hint: 'Ask your admin for a new one (berth invite NAME), and type it with the name it was made for.'
      })
    if (user.state === 'disabled') throw new UserError('user-disabled', undefined, { hint: 'Ask your admin.' })
    return user
  }
}
