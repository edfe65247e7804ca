import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'

export interface StateLock {
  release(): void
}

/** Makes the state directory, for its owner alone. */
export function prepareStateDirectory(stateDir: string): void {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 })
}

/**
 * Takes the exclusive lock on a state directory; undefined when another process still holds it after `waitMs`, which blocks. It is an SQLite write transaction
 * held open on a file of its own, that is, a kernel file lock (fcntl(2)): it ends with the process, however that dies.
 */
export function lockState(stateDir: string, { waitMs = 0 } = {}): StateLock | undefined {
  const path = join(stateDir, 'berth.lock')
  closeSync(openSync(path, 'a', 0o600))
  const database = new Sqlite(path, { timeout: waitMs })
  try {
    database.pragma('journal_mode = MEMORY')
    database.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    database.close()
    if (error instanceof Sqlite.SqliteError && error.code === 'SQLITE_BUSY') return undefined
    throw error
  }
  return { release: () => database.close() }
}
