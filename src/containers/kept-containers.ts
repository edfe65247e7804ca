import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'

/** A container that was replaced, under the name it is kept by. */
export interface KeptContainer {
  readonly userId: number
  readonly node: string
  readonly instance: string
  readonly template: string
  readonly replacedAtMs: number
}

const COLUMNS = 'user_id AS userId, node, instance, template, replaced_at_ms AS replacedAtMs'

/** The replaced containers. Of each user and node the newest can be had back; the row of an older one stays until LXD has it no more. */
export class KeptContainers {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  newest(user: User, node: string): KeptContainer | undefined {
    return this.#database
      .prepare<[number, string], KeptContainer>(
        `SELECT ${COLUMNS} FROM kept_containers WHERE user_id = ? AND node = ? ORDER BY replaced_at_ms DESC LIMIT 1`
      )
      .get(user.id, node)
  }

  /** Those of a node that were replaced before that time. */
  listBefore(node: string, beforeMs: number): KeptContainer[] {
    return this.#database
      .prepare<[string, number], KeptContainer>(
        `SELECT ${COLUMNS} FROM kept_containers WHERE node = ? AND replaced_at_ms < ?`
      )
      .all(node, beforeMs)
  }

  /** The user's that nobody can have back, since there is a newer one. */
  listOlder(user: User, node: string): KeptContainer[] {
    return this.#database
      .prepare<[number, string], KeptContainer>(
        `SELECT ${COLUMNS} FROM kept_containers WHERE user_id = ? AND node = ? ORDER BY replaced_at_ms DESC LIMIT -1 OFFSET 1`
      )
      .all(user.id, node)
  }

  add({ userId, node, instance, template, replacedAtMs }: KeptContainer): void {
    this.#database
      .prepare(
        `INSERT INTO kept_containers (user_id, node, instance, template, replaced_at_ms) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (node, instance) DO NOTHING`
      )
      .run(userId, node, instance, template, replacedAtMs)
  }

  has(node: string, instance: string): boolean {
    const found = this.#database
      .prepare('SELECT 1 FROM kept_containers WHERE node = ? AND instance = ?')
      .get(node, instance)
    return found !== undefined
  }

  forget(node: string, instance: string): void {
    this.#database.prepare('DELETE FROM kept_containers WHERE node = ? AND instance = ?').run(node, instance)
  }
}
