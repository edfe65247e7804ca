import type { Database } from '../db/open.ts'

/** An operation that has not ended, as it is written down. */
export interface OpenRow {
  readonly id: number
  readonly userId: number
  readonly node: string
  readonly kind: string
  readonly startedAtMs: number
  readonly lane: 'container' | 'archive'
  /** Undefined while nothing has to be put right after a crash. */
  readonly phase: string | undefined
  readonly details: unknown
}

/** A line of `berth operations`. */
export interface OperationRow {
  readonly id: number
  readonly user: string
  readonly node: string
  readonly kind: string
  readonly startedAtMs: number
  readonly finishedAtMs: number | undefined
  readonly outcome: string | undefined
  readonly phase: string | undefined
  /** Why it could not be put right when last tried. */
  readonly fault: string | undefined
}

export function insertRow(
  database: Database,
  { userId, node, kind, startedAtMs }: Pick<OpenRow, 'userId' | 'node' | 'kind' | 'startedAtMs'>
): number {
  const { lastInsertRowid } = database
    .prepare('INSERT INTO operations (user_id, node, kind, started_at_ms) VALUES (?, ?, ?, ?)')
    .run(userId, node, kind, startedAtMs)
  return Number(lastInsertRowid)
}

export function writePhase(database: Database, id: number, phase: string, details: object): void {
  database.prepare('UPDATE operations SET phase = ?, details = ? WHERE id = ?').run(phase, JSON.stringify(details), id)
}

export function writeLane(database: Database, id: number, lane: OpenRow['lane']): void {
  database.prepare('UPDATE operations SET lane = ? WHERE id = ?').run(lane, id)
}

export function noteFault(database: Database, id: number, fault: string): void {
  database.prepare('UPDATE operations SET fault = ? WHERE id = ?').run(fault, id)
}

export function finishRow(database: Database, id: number, outcome: string): void {
  database
    .prepare('UPDATE operations SET finished_at_ms = ?, outcome = ?, fault = NULL WHERE id = ?')
    .run(Date.now(), outcome, id)
}

/** Of those that ended before. The newest row stays: SQLite would give its id again, and archives in the making are named by it. */
export function deleteRows(database: Database, beforeMs: number): void {
  database
    .prepare('DELETE FROM operations WHERE finished_at_ms < ? AND id < (SELECT max(id) FROM operations)')
    .run(beforeMs)
}

export function openRows(database: Database): OpenRow[] {
  return database
    .prepare<[], Omit<OpenRow, 'phase' | 'details'> & { phase: string | null; details: string }>(
      `SELECT id, user_id AS userId, node, kind, started_at_ms AS startedAtMs, lane, phase, details
       FROM operations WHERE finished_at_ms IS NULL ORDER BY id`
    )
    .all()
    .map(row => ({ ...row, phase: row.phase ?? undefined, details: JSON.parse(row.details) as unknown }))
}

/** What has not ended, and with `limit` the newest so many that have; newest first. */
export function listRows(database: Database, limit: number): OperationRow[] {
  return database
    .prepare<[number], Record<string, unknown>>(
      `SELECT operations.id, users.name AS user, node, kind, started_at_ms AS startedAtMs, finished_at_ms AS finishedAtMs,
              outcome, phase, fault
       FROM operations JOIN users ON users.id = user_id
       WHERE finished_at_ms IS NULL OR operations.id IN (SELECT id FROM operations ORDER BY id DESC LIMIT ?)
       ORDER BY operations.id DESC`
    )
    .all(limit)
    .map(
      row =>
        Object.fromEntries(
          Object.entries(row).map(([name, value]) => [name, value ?? undefined])
        ) as unknown as OperationRow
    )
}
