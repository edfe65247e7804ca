import { closeSync, fsyncSync, linkSync, openSync, statSync, unlinkSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import Sqlite from 'better-sqlite3'
import { databasePath } from '../app.ts'
import { UserError } from '../errors.ts'
import { defineCommand } from './admin-command.ts'
import { formatBytes } from '../command/units.ts'

/**
 * Copies a database while others use it (SQLite's backup API), to a file for its owner alone that appears whole or not at all.
 * @param onProgress gets the fraction done
 * @throws UserError `exists` when `file` is there already, `usage` when its directory cannot be written
 * @returns bytes written
 */
async function backUpDatabase(path: string, file: string, onProgress: (fraction: number) => void): Promise<number> {
  const partial = `${file}.partial-${process.pid}`
  try {
    closeSync(openSync(partial, 'wx', 0o600))
  } catch (error) {
    throw new UserError('usage', `${file} cannot be written: ${(error as Error).message}.`, {
      hint: 'Name a file in a directory that exists and is yours.',
      cause: error
    })
  }
  try {
    const source = new Sqlite(path, { readonly: true, fileMustExist: true })
    try {
      await source.backup(partial, {
        progress({ totalPages, remainingPages }) {
          onProgress(totalPages === 0 ? 0 : 1 - remainingPages / totalPages)
          return 1000
        }
      })
    } finally {
      source.close()
    }
    syncToDisk(partial)
    // link(2) fails where rename(2) would replace what is there.
    linkSync(partial, file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    throw new UserError('exists', `${file} is there already.`, {
      hint: 'Give another name, or move it away.',
      cause: error
    })
  } finally {
    unlinkSync(partial)
  }
  syncToDisk(dirname(file))
  return statSync(file).size
}

function syncToDisk(path: string): void {
  const descriptor = openSync(path, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

export const backup = defineCommand({
  command: 'backup <file>',
  describe: 'copy the database, also while berth serve runs',
  epilogue: `The copy is consistent and complete: users, keys, fixed ports, audit, and the containers' SSH host keys. Keep it as secret as a
private key. To restore: stop berth, put it in the place of berth.sqlite in stateDir, remove berth.sqlite-wal and
berth.sqlite-shm, start berth.`,
  builder: yargs =>
    yargs.positional('file', { type: 'string', demandOption: true, describe: 'a file that does not exist' }),
  async handler({ file }, { console, loadConfig }) {
    const path = resolve(file)
    const sizeBytes = await backUpDatabase(databasePath(loadConfig()), path, fraction => {
      console.report('copying the database', fraction)
    })
    console.out(`Wrote ${path}, ${formatBytes(sizeBytes)}. It holds private keys: keep it safe.`)
  }
})
