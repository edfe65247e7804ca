import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Compression } from './inspect.ts'

/** One whole archive on the NAS. */
export interface SnapshotRecord {
  readonly userId: number
  /** Where it was taken. */
  readonly node: string
  /** The file's name in the user's directory, and the name people use. */
  readonly name: string
  readonly template: string
  readonly note: string
  readonly scheduled: boolean
  readonly createdAtMs: number
  readonly sizeBytes: number
  readonly uncompressedBytes: number
  /** Of the file as it is, 64 hexadecimal digits. */
  readonly sha256: string
  readonly compression: Compression
  /** Name of the instance inside. */
  readonly instance: string
  /** What wrote it, such as `LXD 5.0.2`. */
  readonly server: string
  readonly tookMs: number
}

const COLUMNS = `user_id AS userId, node, name, template, note, scheduled, created_at_ms AS createdAtMs, size_bytes AS sizeBytes,
  uncompressed_bytes AS uncompressedBytes, sha256, compression, instance, server, took_ms AS tookMs`

type Row = Omit<SnapshotRecord, 'scheduled'> & { readonly scheduled: number }

const fromRow = (row: Row): SnapshotRecord => ({ ...row, scheduled: row.scheduled === 1 })

/**
 * The list of archives that are whole: a row is written when the file is on the disk under its name, and deleted after it. What is
 * being removed is in the list no more.
 */
export class SnapshotRecords {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  /** Writing the same archive down twice is writing it once. */
  add(record: SnapshotRecord): void {
    this.#database
      .prepare(
        `INSERT INTO snapshots (user_id, node, name, template, note, scheduled, created_at_ms, size_bytes, uncompressed_bytes,
                                sha256, compression, instance, server, took_ms)
         VALUES ($userId, $node, $name, $template, $note, $scheduled, $createdAtMs, $sizeBytes, $uncompressedBytes,
                 $sha256, $compression, $instance, $server, $tookMs)
         ON CONFLICT (name) DO NOTHING`
      )
      .run({ ...record, scheduled: record.scheduled ? 1 : 0 })
  }

  /** Newest first. */
  listFor(user: Pick<User, 'id'>): SnapshotRecord[] {
    return this.#database
      .prepare<[number], Row>(
        `SELECT ${COLUMNS} FROM snapshots WHERE user_id = ? AND removing = 0 ORDER BY created_at_ms DESC, id DESC`
      )
      .all(user.id)
      .map(fromRow)
  }

  /** The names of those whose files may be there still. */
  listRemoving(user: Pick<User, 'id'>): string[] {
    return this.#database
      .prepare<[number], string>('SELECT name FROM snapshots WHERE user_id = ? AND removing = 1')
      .pluck()
      .all(user.id)
  }

  /**
   * The user's own snapshot of that name, or of the path berth printed, which ends in it. What is typed is only compared.
   * @throws UserError `unknown-snapshot`
   */
  need(user: User, named: string, directory: string): SnapshotRecord {
    const found = this.listFor(user).find(({ name }) => named === name || named === `${directory}/${user.name}/${name}`)
    if (found) return found
    throw new UserError('unknown-snapshot', `You have none called ${JSON.stringify(named)}.`, {
      hint: 'See what there is with: ssh NODE-manage snapshots'
    })
  }

  beginRemoval({ name }: Pick<SnapshotRecord, 'name'>): void {
    this.#database.prepare('UPDATE snapshots SET removing = 1 WHERE name = ?').run(name)
  }

  endRemoval(name: string): void {
    this.#database.prepare('DELETE FROM snapshots WHERE name = ?').run(name)
  }
}
