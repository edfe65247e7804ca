import type { PortRange } from '../config.ts'
import type { Database, Statement } from '../db/open.ts'
import { UserError } from '../errors.ts'
import { checkUserName } from './user-name.ts'

export type UserState = 'enabled' | 'disabled'

/** A member's account. `fixedPort` is the member's port on every node. */
export interface User {
  readonly id: number
  readonly name: string
  readonly fixedPort: number
  readonly state: UserState
  readonly createdAtMs: number
}

/** How long a released fixed port is kept from new users. */
const PORT_REST_MS = 30 * 24 * 3600 * 1000

/** Whom the lab's directory shuts out is disabled for as long as it does, and without touching what the admin has set. */
const COLUMNS = `id, name, fixed_port AS fixedPort, created_at_ms AS createdAtMs,
  iif(EXISTS (SELECT 1 FROM domain_accounts WHERE user_id = users.id AND shut_out = 1), 'disabled', state) AS state`

export class Users {
  readonly #database: Database
  readonly #ports: PortRange
  // Prepared once: each login asks.
  readonly #withId: Statement<[number], User>

  constructor(database: Database, ports: PortRange) {
    this.#database = database
    this.#ports = ports
    this.#withId = database.prepare(`SELECT ${COLUMNS} FROM users WHERE id = ?`)
  }

  /**
   * Creates a user with a fixed port: the one asked for, else the lowest free one that has rested.
   * @throws UserError `bad-user-name`, `exists`, `port-taken`, `ports-exhausted`
   */
  add(name: string, { port }: { port?: number | undefined } = {}): User {
    checkUserName(name)
    return this.#database
      .transaction(() => {
        if (this.find(name))
          throw new UserError('exists', `There is a user ${name} already.`, { hint: `See: berth user show ${name}` })
        const now = Date.now()
        const fixedPort = port === undefined ? this.#freePort(now) : this.#checkPort(port)
        this.#database.prepare('DELETE FROM released_ports WHERE port = ?').run(fixedPort)
        const { lastInsertRowid } = this.#database
          .prepare('INSERT INTO users (name, fixed_port, created_at_ms) VALUES (?, ?, ?)')
          .run(name, fixedPort, now)
        return this.byId(Number(lastInsertRowid)) as User
      })
      .immediate()
  }

  find(name: string): User | undefined {
    return this.#database.prepare<[string], User>(`SELECT ${COLUMNS} FROM users WHERE name = ?`).get(name)
  }

  /** @throws UserError `unknown-user` */
  need(name: string): User {
    const user = this.find(name)
    if (!user)
      throw new UserError('unknown-user', `Nobody here is called ${JSON.stringify(name)}.`, {
        hint: 'See: berth user list'
      })
    return user
  }

  byId(id: number): User | undefined {
    return this.#withId.get(id)
  }

  list(): User[] {
    return this.#database.prepare<[], User>(`SELECT ${COLUMNS} FROM users ORDER BY name`).all()
  }

  /** Those whose name holds the text or whose fixed port it is, by name; with the number of their keys, and how many there are in all. */
  search(text: string, { offset = 0, limit = 50 } = {}): { users: (User & { keys: number })[]; total: number } {
    const pattern = `%${text.toLowerCase().replaceAll(/[\\%_]/g, character => `\\${character}`)}%`
    const matches = `WHERE name LIKE ? ESCAPE '\\' OR CAST(fixed_port AS TEXT) = ?`
    const users = this.#database
      .prepare<[string, string, number, number], User & { keys: number }>(
        `SELECT ${COLUMNS}, (SELECT count(*) FROM keys WHERE user_id = users.id) AS keys
         FROM users ${matches} ORDER BY name LIMIT ? OFFSET ?`
      )
      .all(pattern, text, limit, offset)
    const total = this.#database
      .prepare<[string, string], number>(`SELECT count(*) FROM users ${matches}`)
      .pluck()
      .get(pattern, text)
    return { users, total: total ?? 0 }
  }

  /** @returns the user as it is now: still disabled when the lab's directory shuts it out */
  setState(user: User, state: UserState): User {
    this.#database.prepare('UPDATE users SET state = ? WHERE id = ?').run(state, user.id)
    return this.byId(user.id) ?? { ...user, state }
  }

  /** Forgets the user with keys, invites and host keys, and lets the fixed port rest. Containers must be gone before. */
  remove(user: User): void {
    this.#database
      .transaction(() => {
        this.#database.prepare('DELETE FROM users WHERE id = ?').run(user.id)
        this.#database
          .prepare('INSERT OR REPLACE INTO released_ports (port, released_at_ms) VALUES (?, ?)')
          .run(user.fixedPort, Date.now())
      })
      .immediate()
  }

  #checkPort(port: number): number {
    const { from, to, exclude } = this.#ports
    if (port < from || port > to || exclude.includes(port)) {
      throw new UserError('port-taken', `Port ${port} is not one of the configured ports (${from} to ${to}).`, {
        hint: 'Leave --port out to get a free one, or widen `ports` in berth.yaml.'
      })
    }
    const owner = this.#database
      .prepare<[number], { name: string }>('SELECT name FROM users WHERE fixed_port = ?')
      .get(port)
    if (owner) {
      throw new UserError('port-taken', `Port ${port} is ${owner.name}'s.`, {
        hint: 'Leave --port out to get a free one.'
      })
    }
    return port
  }

  #freePort(now: number): number {
    const taken = new Set(
      this.#database
        .prepare<[number], number>(
          'SELECT fixed_port FROM users UNION SELECT port FROM released_ports WHERE released_at_ms > ?'
        )
        .pluck()
        .all(now - PORT_REST_MS)
    )
    for (const port of this.#ports.exclude) taken.add(port)
    for (let port = this.#ports.from; port <= this.#ports.to; port++) if (!taken.has(port)) return port
    throw new UserError(
      'ports-exhausted',
      `All ports from ${this.#ports.from} to ${this.#ports.to} are taken or resting.`,
      {
        hint: 'Widen `ports` in berth.yaml and restart berth, or name a resting port with --port.'
      }
    )
  }
}
