import type { Database } from '../db/open.ts'
import type { Invites } from '../directory/invites.ts'
import type { User, Users } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Report } from '../operations/operations.ts'
import type { Containers, NodeOutcome } from './containers.ts'
import type { ShutOutOwed } from './records.ts'

/** The members' snapshots, as far as they concern who deletes a member. */
interface Archives {
  /** @throws UserError when the user has some and they cannot be deleted now */
  needRemovable(user: User): Promise<void>
  /** @returns whether the user's directory is gone too */
  removeAll(user: User): Promise<boolean>
}

interface Parts {
  readonly database: Database
  readonly users: Users
  readonly invites: Invites
  readonly containers: Containers
  readonly archives: Archives
  /** Ends every session of a user, at the manage endpoints and in browsers. */
  hangUp(userId: number): void
}

export interface Invited {
  readonly created: boolean
  readonly user: User
  readonly code: string
  readonly expiresAtMs: number
  /** One from before, still good, has ended. */
  readonly ended: boolean
}

/** What an admin does to a member as a whole, whether at the command line or in a browser. */
export class Members {
  readonly #parts: Parts

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** A new code, for a new user where there is none. @throws UserError `bad-user-name`, `ports-exhausted` */
  invite(name: string): Invited {
    const { database, users, invites } = this.#parts
    // Both or neither: a user without a code would be a surprise in the next list of users.
    return database
      .transaction(() => {
        const known = users.find(name)
        const user = known ?? users.add(name)
        return { created: known === undefined, user, ...invites.create(user) }
      })
      .immediate()
  }

  async disable(
    known: User,
    { keepRunning = false }: { keepRunning?: boolean } = {},
    report?: Report
  ): Promise<NodeOutcome[]> {
    const user = this.#shutOut(known, keepRunning ? 'close' : 'stop')
    return this.#parts.containers.disable(user, { keepRunning }, report)
  }

  /** @throws UserError `user-disabled` for somebody whom the lab's directory shuts out */
  async enable(known: User, report?: Report): Promise<NodeOutcome[]> {
    const user = this.#parts.users.setState(known, 'enabled')
    if (user.state === 'disabled') {
      throw new UserError('user-disabled', "The lab's directory does not let them in.", {
        hint: 'Mend it there: berth follows by itself, within `ldap.recheck`.'
      })
    }
    return this.#parts.containers.enable(user, report)
  }

  /**
   * Deletes the user with all containers and snapshots.
   * @returns what became of the containers, and whether the directory of the snapshots is gone
   * @throws UserError when something could not be deleted; the user stays then, disabled
   */
  async remove(known: User, report?: Report): Promise<{ containers: NodeOutcome[]; directoryGone: boolean }> {
    const { users, containers, archives } = this.#parts
    // Disabled first: nobody may start anew what is being deleted, and a removal that a dead node interrupts stays safe.
    const user = this.#shutOut(known, 'stop')
    // Without the NAS not even the containers go: a user half removed is nobody's.
    await archives.needRemovable(user)
    const outcomes = await containers.remove(user, report)
    const directoryGone = await archives.removeAll(user)
    users.remove(user)
    return { containers: outcomes, directoryGone }
  }

  #shutOut(known: User, owed: ShutOutOwed): User {
    const { database, users, containers } = this.#parts
    // Both or neither: after a power cut between them nobody would know of containers that are still open.
    const user = database
      .transaction(() => {
        containers.oweShutOut(known, owed)
        return users.setState(known, 'disabled')
      })
      .immediate()
    this.#parts.hangUp(user.id)
    return user
  }
}
