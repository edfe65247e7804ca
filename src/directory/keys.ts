import { writeUnsynced, type Database, type Statement } from '../db/open.ts'
import { UserError } from '../errors.ts'
import type { PublicKey } from './public-key.ts'
import type { User } from './users.ts'

export interface UserKey extends PublicKey {
  readonly userId: number
  readonly addedAtMs: number
  readonly lastUsedAtMs: number | undefined
  readonly lastUsedAddress: string | undefined
}

interface Row {
  user_id: number
  fingerprint: string
  type: string
  bits: number
  blob: string
  comment: string
  added_at_ms: number
  last_used_at_ms: number | null
  last_used_address: string | null
}

const fromRow = (row: Row): UserKey => ({
  userId: row.user_id,
  type: row.type,
  bits: row.bits,
  fingerprint: row.fingerprint,
  blob: Buffer.from(row.blob, 'base64'),
  comment: row.comment,
  addedAtMs: row.added_at_ms,
  lastUsedAtMs: row.last_used_at_ms ?? undefined,
  lastUsedAddress: row.last_used_address ?? undefined
})

/** The last-used columns are written at most this often per key: a status loop must not become a write loop. */
const TOUCH_EVERY_MS = 60_000

/** The public keys of all users; a key belongs to one user only. Fingerprints as `ssh-keygen -l` prints them. */
export class Keys {
  readonly #database: Database
  // Prepared once: each login asks.
  readonly #byFingerprint: Statement<[string], Row>
  readonly #touched: Statement<[number, string, string, number, string]>

  constructor(database: Database) {
    this.#database = database
    this.#byFingerprint = database.prepare('SELECT * FROM keys WHERE fingerprint = ?')
    this.#touched = database.prepare(
      `UPDATE keys SET last_used_at_ms = ?, last_used_address = ?
       WHERE fingerprint = ? AND (last_used_at_ms IS NULL OR last_used_at_ms < ? OR last_used_address <> ?)`
    )
  }

  /** @throws UserError `exists` when the user has it already, `key-taken` when somebody else does */
  add(user: User, key: PublicKey): UserKey {
    return this.#database
      .transaction(() => {
        const known = this.find(key.fingerprint)
        if (known) {
          const mine = known.userId === user.id
          throw mine
            ? new UserError('exists', `${user.name} has the key ${key.fingerprint} already.`, {
                hint: 'Nothing needs to be done.'
              })
            : new UserError('key-taken', undefined, { hint: 'Make a new one with: ssh-keygen -t ed25519' })
        }
        this.#database
          .prepare(
            'INSERT INTO keys (user_id, fingerprint, type, bits, blob, comment, added_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)'
          )
          .run(user.id, key.fingerprint, key.type, key.bits, key.blob.toString('base64'), key.comment, Date.now())
        return this.find(key.fingerprint) as UserKey
      })
      .immediate()
  }

  /** Adds all or none; those the user has already are passed over. Returns the new ones. @throws UserError `key-taken` */
  addAll(user: User, keys: readonly PublicKey[]): UserKey[] {
    return this.#database
      .transaction(() =>
        keys.filter(key => this.find(key.fingerprint)?.userId !== user.id).map(key => this.add(user, key))
      )
      .immediate()
  }

  find(fingerprint: string): UserKey | undefined {
    const row = this.#byFingerprint.get(fingerprint)
    return row && fromRow(row)
  }

  listFor(user: User): UserKey[] {
    return this.#database
      .prepare<[number], Row>('SELECT * FROM keys WHERE user_id = ? ORDER BY id')
      .all(user.id)
      .map(fromRow)
  }

  /** @throws UserError `unknown-key`; `last-key` unless `evenLast` */
  remove(user: User, fingerprint: string, { evenLast = false }: { evenLast?: boolean } = {}): UserKey {
    return this.#database
      .transaction(() => {
        const keys = this.listFor(user)
        const key = keys.find(candidate => candidate.fingerprint === fingerprint)
        if (!key) {
          throw new UserError('unknown-key', `${user.name} has no key ${JSON.stringify(fingerprint)}.`, {
            hint: `Give the fingerprint as the list shows it, with SHA256: in front.`
          })
        }
        if (keys.length === 1 && !evenLast) {
          throw new UserError('last-key', 'Without it nobody could log in any more.', {
            hint: 'Add another key first.'
          })
        }
        this.#database.prepare('DELETE FROM keys WHERE fingerprint = ?').run(fingerprint)
        return key
      })
      .immediate()
  }

  /** Notes that a key has just logged in from an address. */
  touch(fingerprint: string, address: string): void {
    const now = Date.now()
    writeUnsynced(this.#database, () => this.#touched.run(now, address, fingerprint, now - TOUCH_EVERY_MS, address))
  }
}
