import { chmodSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { UserError } from '../errors.ts'

export type Database = Sqlite.Database
export type Statement<Bound extends unknown[], Row = unknown> = Sqlite.Statement<Bound, Row>

export const MIGRATIONS_DIRECTORY = join(import.meta.dirname, '../../migrations')

/**
 * Opens the database, brings it up to date, and leaves it ready for several processes at once (WAL; a writer waits up to 5 s).
 * @throws UserError `newer-database` when it was written by a berth with more migrations than this one
 */
export function openDatabase(path: string, migrationsDirectory: string = MIGRATIONS_DIRECTORY): Database {
  const isNew = !existsSync(path)
  const database = new Sqlite(path, { timeout: 5000 })
  try {
    // The file holds host private keys; SQLite gives the WAL and the shared memory the mode of the main file.
    if (isNew) chmodSync(path, 0o600)
    database.pragma('journal_mode = WAL')
    database.pragma('synchronous = FULL')
    database.pragma('foreign_keys = ON')
    migrate(database, migrationsDirectory)
    return database
  } catch (error) {
    database.close()
    throw error
  }
}

/**
 * Runs writes that are not waited for until they are on the disk (sqlite.org/pragma.html#pragma_synchronous): no crash of berth loses
 * them, a power cut may, unless a later write was waited for.
 */
export function writeUnsynced<T>(database: Database, write: () => T): T {
  // Not `pragma`, which takes longer than the write: each command and login comes by here.
  database.exec('PRAGMA synchronous = NORMAL')
  try {
    return write()
  } finally {
    database.exec('PRAGMA synchronous = FULL')
  }
}

function migrate(database: Database, directory: string): void {
  const files = readdirSync(directory)
    .filter(file => /^\d{3}-[a-z0-9-]+\.sql$/.test(file))
    .sort()
  const current = () => database.pragma('user_version', { simple: true }) as number
  if (current() > files.length) {
    throw new UserError(
      'newer-database',
      `${basename(database.name)} is at version ${current()}, this berth knows ${files.length}.`,
      {
        hint: 'Run the newer berth again, or restore a copy made by `berth backup` before the upgrade.'
      }
    )
  }
  for (const [index, file] of files.entries()) {
    const step = database.transaction(() => {
      // Asked again inside the write lock: the daemon and the command line may both arrive here.
      if (current() > index) return
      database.exec(readFileSync(join(directory, file), 'utf8'))
      database.pragma(`user_version = ${index + 1}`)
    })
    step.immediate()
  }
}
