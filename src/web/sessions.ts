import { createHash } from 'node:crypto'
import type { SessionStore } from '@fastify/session'
import type { Session } from 'fastify'
import type { Database } from '../db/open.ts'

/** Long enough for a working day; absolute, so that a browser left open somewhere ends too. */
export const SESSION_MS = 12 * 3600 * 1000

declare module 'fastify' {
  interface Session {
    userId?: number
  }
}

/**
 * Sessions of the web pages, for @fastify/session. Only those of somebody signed in are kept, and of their ids only the SHA-256:
 * visitors without an account cannot fill the database, and a copy of it lets nobody in.
 */
export class Sessions implements SessionStore {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  set(id: string, { userId }: Session, done: (error?: unknown) => void): void {
    settle(done, () => {
      if (userId === undefined) return
      const now = Date.now()
      this.#database.prepare('DELETE FROM web_sessions WHERE expires_at_ms < ?').run(now)
      this.#database
        .prepare(
          `INSERT INTO web_sessions (user_id, secret_sha256, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?)
           ON CONFLICT (secret_sha256) DO NOTHING`
        )
        .run(userId, hash(id), now, now + SESSION_MS)
    })
  }

  get(id: string, done: (error: unknown, session?: Session | null) => void): void {
    settle(done, () => {
      const row = this.#database
        .prepare<[Buffer, number], { userId: number; expiresAtMs: number }>(
          `SELECT user_id AS userId, expires_at_ms AS expiresAtMs FROM web_sessions
           WHERE secret_sha256 = ? AND expires_at_ms > ?`
        )
        .get(hash(id), Date.now())
      if (!row) return null
      return { userId: row.userId, cookie: { originalMaxAge: SESSION_MS, expires: new Date(row.expiresAtMs) } }
    })
  }

  destroy(id: string, done: (error?: unknown) => void): void {
    settle(done, () => {
      this.#database.prepare('DELETE FROM web_sessions WHERE secret_sha256 = ?').run(hash(id))
    })
  }

  /** Signs a user out of every browser. */
  endAll(userId: number): void {
    this.#database.prepare('DELETE FROM web_sessions WHERE user_id = ?').run(userId)
  }
}

function settle<T>(done: (error: unknown, result?: T) => void, work: () => T): void {
  let result: T
  try {
    result = work()
  } catch (error) {
    done(error)
    return
  }
  done(null, result)
}

const hash = (id: string): Buffer => createHash('sha256').update(id).digest()
