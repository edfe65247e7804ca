import type { Database } from '../db/open.ts'
import { UserError } from '../errors.ts'
import { userNameFor } from './user-name.ts'
import type { User, Users } from './users.ts'

/** What the lab's directory says of a person; all of it text that others chose. */
export interface Person {
  /** The value of `nameAttribute`. */
  readonly login: string
  /** Stays when the login changes; empty where the directory has nothing of the kind. */
  readonly entryId: string
  readonly displayName: string
  readonly email: string
}

export interface DomainAccount extends Person {
  readonly userId: number
  /** Since when the directory does not let the person in. */
  readonly goneAtMs: number | undefined
}

type Row = Omit<DomainAccount, 'goneAtMs'> & { readonly goneAtMs: number | null }

const COLUMNS =
  'user_id AS userId, login, entry_id AS entryId, display_name AS displayName, email, gone_at_ms AS goneAtMs'

const fromRow = (row: Row): DomainAccount => ({ ...row, goneAtMs: row.goneAtMs ?? undefined })

/** Which user is whom in the lab's directory. */
export class DomainAccounts {
  readonly #database: Database
  readonly #users: Users

  constructor(database: Database, users: Users) {
    this.#database = database
    this.#users = users
  }

  of(user: User): DomainAccount | undefined {
    return this.#find('user_id = ?', user.id)
  }

  byEntryId(entryId: string): DomainAccount | undefined {
    return entryId === '' ? undefined : this.#find('entry_id = ?', entryId)
  }

  byLogin(login: string): DomainAccount | undefined {
    return this.#find('login = ?', login)
  }

  list(): DomainAccount[] {
    return this.#database.prepare<[], Row>(`SELECT ${COLUMNS} FROM domain_accounts ORDER BY user_id`).all().map(fromRow)
  }

  /**
   * For every way into the web pages, by session or token too.
   * @throws UserError `user-disabled` when the lab's directory does not let the user in any more
   */
  refuseGone(user: User): void {
    if (this.of(user)?.goneAtMs === undefined) return
    throw new UserError('user-disabled', "The lab's directory does not let you in any more.", {
      hint: 'Ask whoever keeps your account there.'
    })
  }

  /**
   * The user of somebody who signs in for the first time: the one of the very same name, if `adopt` says so and the name is nobody's
   * else there, or a new one with the nearest free name.
   * @throws UserError `ports-exhausted`
   */
  welcome(person: Person, { adopt }: { adopt: boolean }): User {
    return this.#database
      .transaction(() => {
        const same = adopt ? this.#users.find(person.login.toLowerCase()) : undefined
        const user = same && !this.of(same) ? same : this.#addUser(person)
        this.#database
          .prepare('INSERT INTO domain_accounts (user_id, login, entry_id, display_name, email) VALUES (?, ?, ?, ?, ?)')
          .run(user.id, person.login, person.entryId, person.displayName, person.email)
        return user
      })
      .immediate()
  }

  /** Notes what the directory says now of somebody who may come in. @returns whether that is news */
  follow(userId: number, person: Person): { cameBack: boolean } {
    return this.#database
      .transaction(() => {
        const before = this.#find('user_id = ?', userId)
        this.#database
          .prepare(
            `UPDATE domain_accounts SET login = ?, entry_id = ?, display_name = ?, email = ?, gone_at_ms = NULL, shut_out = 0
             WHERE user_id = ?`
          )
          .run(person.login, person.entryId, person.displayName, person.email, userId)
        return { cameBack: before?.goneAtMs !== undefined }
      })
      .immediate()
  }

  /** Ends the web sessions of somebody whom the directory does not let in any more; `shutOut` disables the user as well. */
  markGone(userId: number, { shutOut }: { shutOut: boolean }): void {
    this.#database
      .transaction(() => {
        this.#database
          .prepare('UPDATE domain_accounts SET gone_at_ms = ?, shut_out = ? WHERE user_id = ?')
          .run(Date.now(), Number(shutOut), userId)
        this.#database.prepare('DELETE FROM web_sessions WHERE user_id = ?').run(userId)
        this.#database.prepare('DELETE FROM sign_in_links WHERE user_id = ?').run(userId)
      })
      .immediate()
  }

  #addUser(person: Person): User {
    for (let attempt = 1; ; attempt++) {
      const name = userNameFor(person.login, attempt)
      if (name !== undefined && !this.#users.find(name)) return this.#users.add(name)
    }
  }

  #find(condition: string, value: string | number): DomainAccount | undefined {
    const row = this.#database
      .prepare<[string | number], Row>(
        `SELECT ${COLUMNS} FROM domain_accounts WHERE ${condition} ORDER BY user_id DESC`
      )
      .get(value)
    return row && fromRow(row)
  }
}
