import { createHash, randomBytes } from 'node:crypto'
import type { Config } from '../config.ts'
import type { Database } from '../db/open.ts'
import type { DomainAccounts } from './domain-accounts.ts'
import { UserError } from '../errors.ts'
import type { User, Users } from './users.ts'

const LINK_VALID_MS = 10 * 60 * 1000

/** Links into the web pages that sign one user in, once: 128 random bits; only their SHA-256 is kept. */
export class SignInLinks {
  readonly #database: Database
  readonly #users: Users
  readonly #accounts: DomainAccounts

  constructor(database: Database, users: Users, accounts: DomainAccounts) {
    this.#database = database
    this.#users = users
    this.#accounts = accounts
  }

  /** A new link for a user; older unused ones of the same user die. @throws UserError `user-disabled` */
  create(user: User): { secret: string; expiresAtMs: number } {
    if (user.state === 'disabled') throw userDisabled()
    this.#accounts.refuseGone(user)
    const secret = randomBytes(16).toString('base64url')
    const now = Date.now()
    const expiresAtMs = now + LINK_VALID_MS
    this.#database
      .transaction(() => {
        this.#database.prepare('DELETE FROM sign_in_links WHERE user_id = ? OR expires_at_ms < ?').run(user.id, now)
        this.#database
          .prepare(
            'INSERT INTO sign_in_links (user_id, secret_sha256, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?)'
          )
          .run(user.id, hashSecret(secret), now, expiresAtMs)
      })
      .immediate()
    return { secret, expiresAtMs }
  }

  /** Would it sign somebody in? Spends nothing: what only looks at links, a mail program perhaps, must not use them up. */
  peek(secret: string): boolean {
    return (
      this.#database
        .prepare('SELECT 1 FROM sign_in_links WHERE secret_sha256 = ? AND used_at_ms IS NULL AND expires_at_ms > ?')
        .get(hashSecret(secret), Date.now()) !== undefined
    )
  }

  /** Spends a link. @throws UserError `link-invalid` for a wrong, used or expired one alike; `user-disabled` */
  redeem(secret: string): User {
    const now = Date.now()
    const spent = this.#database
      .prepare<[number, Buffer, number], { user_id: number }>(
        `UPDATE sign_in_links SET used_at_ms = ? WHERE secret_sha256 = ? AND used_at_ms IS NULL AND expires_at_ms > ?
         RETURNING user_id`
      )
      .get(now, hashSecret(secret), now)
    const user = spent && this.#users.byId(spent.user_id)
    if (!user) throw new UserError('link-invalid', undefined, { hint: 'Make a new one with: ssh NODE-manage web' })
    if (user.state === 'disabled') throw userDisabled()
    this.#accounts.refuseGone(user)
    return user
  }
}

const userDisabled = () => new UserError('user-disabled', undefined, { hint: 'Ask your admin.' })

const hashSecret = (secret: string): Buffer => createHash('sha256').update(secret).digest()

/** Where the web pages are, without a slash at the end; undefined when they are off. */
export function webAddress({ listen, publicUrl, tls }: Config['web']): string | undefined {
  if (listen === 'off') return undefined
  return (publicUrl ?? `${tls ? 'https' : 'http'}://${listen}`).replace(/\/+$/, '')
}

/** The page that asks whether to sign in by a link. */
export const linkUrl = (address: string, secret: string): string => `${address}/link/${secret}`

/** The page that asks whether to sign in by an invite code. */
export const inviteUrl = (address: string, code: string): string => `${address}/invite/${code}`
