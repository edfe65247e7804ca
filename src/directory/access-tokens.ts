import { createHash, randomBytes } from 'node:crypto'
import type { Database } from '../db/open.ts'
import { UserError } from '../errors.ts'
import type { User } from './users.ts'

/** `read` sees, `write` also changes what is the member's own, `admin` also what an admin may. */
export const SCOPES = ['read', 'write', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

export interface AccessToken {
  readonly id: number
  readonly name: string
  readonly scopes: readonly Scope[]
  readonly createdAtMs: number
  readonly expiresAtMs: number | undefined
  readonly lastUsedAtMs: number | undefined
  readonly lastUsedAddress: string | undefined
}

interface Row {
  id: number
  user_id: number
  name: string
  scopes: string
  created_at_ms: number
  expires_at_ms: number | null
  last_used_at_ms: number | null
  last_used_address: string | null
}

const fromRow = (row: Row): AccessToken => ({
  id: row.id,
  name: row.name,
  scopes: row.scopes.split(' ') as Scope[],
  createdAtMs: row.created_at_ms,
  expiresAtMs: row.expires_at_ms ?? undefined,
  lastUsedAtMs: row.last_used_at_ms ?? undefined,
  lastUsedAddress: row.last_used_address ?? undefined
})

/** Begins with a name, so that scanners for leaked secrets know it. */
const PREFIX = 'berth_pat_'
const MAX_TOKENS = 50
const TOUCH_EVERY_MS = 60_000

/** Personal access tokens for the API: 160 random bits; only their SHA-256 is kept. */
export class AccessTokens {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  /** The secret is shown once. @throws UserError `not-allowed` beyond 50 */
  create(
    user: User,
    name: string,
    scopes: readonly Scope[],
    expiresAtMs: number | undefined
  ): { secret: string; token: AccessToken } {
    if (this.listFor(user).length >= MAX_TOKENS) {
      throw new UserError('not-allowed', `A member may have ${MAX_TOKENS} access tokens.`, {
        hint: 'Revoke some first.'
      })
    }
    const secret = PREFIX + randomBytes(20).toString('base64url')
    const row = this.#database
      .prepare<[number, string, Buffer, string, number, number | null], Row>(
        `INSERT INTO access_tokens (user_id, name, token_sha256, scopes, created_at_ms, expires_at_ms)
         VALUES (?, ?, ?, ?, ?, ?) RETURNING *`
      )
      .get(user.id, name, hash(secret), scopes.join(' '), Date.now(), expiresAtMs ?? null) as Row
    return { secret, token: fromRow(row) }
  }

  listFor(user: User): AccessToken[] {
    return this.#database
      .prepare<[number], Row>('SELECT * FROM access_tokens WHERE user_id = ? ORDER BY id')
      .all(user.id)
      .map(fromRow)
  }

  /** Whose a secret is and what it may; undefined for a wrong, revoked or expired one. Notes its use, at most once a minute. */
  use(secret: string, address: string): { userId: number; scopes: readonly Scope[] } | undefined {
    const now = Date.now()
    const row = this.#database
      .prepare<[Buffer, number], Row>(
        'SELECT * FROM access_tokens WHERE token_sha256 = ? AND (expires_at_ms IS NULL OR expires_at_ms > ?)'
      )
      .get(hash(secret), now)
    if (!row) return undefined
    if (now - (row.last_used_at_ms ?? 0) > TOUCH_EVERY_MS || row.last_used_address !== address) {
      this.#database
        .prepare('UPDATE access_tokens SET last_used_at_ms = ?, last_used_address = ? WHERE id = ?')
        .run(now, address, row.id)
    }
    return { userId: row.user_id, scopes: fromRow(row).scopes }
  }

  /** Whether there was one of that number. */
  revoke(user: User, id: number): boolean {
    return this.#database.prepare('DELETE FROM access_tokens WHERE id = ? AND user_id = ?').run(id, user.id).changes > 0
  }
}

const hash = (secret: string): Buffer => createHash('sha256').update(secret).digest()
