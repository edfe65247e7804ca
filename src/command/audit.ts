import { writeUnsynced, type Database, type Statement } from '../db/open.ts'
import type { Reason } from '../errors.ts'

/** Who typed what, where from. `words` are already masked. */
export interface AuditEntry {
  readonly session: string
  readonly login: string
  readonly user: string | undefined
  /** Undefined for what was done in a browser. */
  readonly fingerprint: string | undefined
  readonly address: string
  readonly node: string
  readonly words: string
}

export interface AuditRow extends AuditEntry {
  readonly id: number
  readonly atMs: number
  readonly reason: string | undefined
  /** Undefined while the command runs, and for ever when berth died meanwhile. */
  readonly exitCode: number | undefined
  readonly durationMs: number | undefined
}

export interface AuditQuery {
  readonly user?: string | undefined
  readonly sinceMs?: number | undefined
  /** Those older than this row alone, to go on where a list ended. */
  readonly beforeId?: number | undefined
  readonly limit?: number | undefined
}

/** One row for every command of every member, opened before the command runs. */
export class Audit {
  readonly #database: Database
  // Prepared once: each command needs both.
  readonly #opened: Statement<(string | number | null)[]>
  readonly #closed: Statement<(string | number | bigint | null)[]>

  constructor(database: Database) {
    this.#database = database
    this.#opened = database.prepare(
      `INSERT INTO audit (at_ms, session, login, user, fingerprint, address, node, words)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)`
    )
    this.#closed = database.prepare('UPDATE audit SET exit_code = ?, reason = ?, duration_ms = ? WHERE id = ?')
  }

  /** Opens a row; the function returned closes it. */
  open(entry: AuditEntry): (exitCode: number, reason: Reason | undefined) => void {
    const atMs = Date.now()
    const { session, login, user = null, fingerprint = null, address, node, words } = entry
    // Whatever berth changes it writes after this row, waited for: only looks and shells can be lost with the power.
    const { lastInsertRowid } = writeUnsynced(this.#database, () =>
      this.#opened.run(atMs, session, login, user, fingerprint, address, node, words)
    )
    return (exitCode, reason) => {
      writeUnsynced(this.#database, () =>
        this.#closed.run(exitCode, reason ?? null, Date.now() - atMs, lastInsertRowid)
      )
    }
  }

  /** Deletes what was typed before that, but never the newest row. */
  forget(beforeMs: number): void {
    // SQLite gives the id of a newest row that is deleted again: to a row that somebody else's command would then close.
    this.#database.prepare('DELETE FROM audit WHERE at_ms < ? AND id < (SELECT max(id) FROM audit)').run(beforeMs)
  }

  /** Oldest first; the newest `limit` rows (1000 unless told). */
  list({ user, sinceMs = 0, beforeId = Number.MAX_SAFE_INTEGER, limit = 1000 }: AuditQuery = {}): AuditRow[] {
    const rows = this.#database
      .prepare<[number, number, string | null, string | null, number], Record<string, unknown>>(
        `SELECT id, at_ms AS atMs, session, login, user, fingerprint, address, node, words, reason,
                exit_code AS exitCode, duration_ms AS durationMs
         FROM audit WHERE at_ms >= ? AND id < ? AND (? IS NULL OR user = ?) ORDER BY id DESC LIMIT ?`
      )
      .all(sinceMs, beforeId, user ?? null, user ?? null, limit)
    return rows
      .reverse()
      .map(
        row =>
          Object.fromEntries(
            Object.entries(row).map(([name, value]) => [name, value ?? undefined])
          ) as unknown as AuditRow
      )
  }
}

/** Invite codes and tokens wherever in a line they were typed: grouped by dashes inside a word, or alone as a whole word. */
const GROUPED = /[0-9a-z]{4}(?:-[0-9a-z]{4}){3,}/gi
const ALONE = /^(?:[0-9a-z]{16}|[0-9a-z]{26})$/i

/** A command line as log and audit may hold it: what is or looks like a secret is masked. Positions count from the word after the verb. */
export function maskWords(words: readonly string[], secretPositions: readonly number[]): string {
  return words
    .map((word, index) => (index > 0 && secretPositions.includes(index - 1) ? '***' : word))
    .map(word => word.replaceAll(GROUPED, '***').replace(ALONE, '***'))
    .map(word => (/^[\w@%+=:,./*-]+$/.test(word) ? word : JSON.stringify(word)))
    .join(' ')
}
