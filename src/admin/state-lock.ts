import { accessSync, closeSync, constants, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { UserError } from '../errors.ts'

export interface StateLock {
  release(): void
}

/** Makes the state directory, for its owner alone. @throws UserError `bad-config` when it cannot be used */
export function prepareStateDirectory(stateDir: string): void {
  try {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 })
    accessSync(stateDir, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EACCES') throw error
    throw new UserError('bad-config', `stateDir cannot be used: ${message}`, {
      hint: 'Name another in berth.yaml.',
      cause: error
    })
  }
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
