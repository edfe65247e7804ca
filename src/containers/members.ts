import type { Database } from '../db/open.ts'
import type { Invites } from '../directory/invites.ts'
import type { User, Users } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Report } from '../operations/operations.ts'
import type { Containers, NodeOutcome } from './containers.ts'

interface Parts {
  readonly database: Database
  readonly users: Users
  readonly invites: Invites
  readonly containers: Containers
  /** Ends every session of a user, at the manage endpoints and in browsers. */
  hangUp(userId: number): void
}

export interface Invited {
  readonly created: boolean
  readonly user: User
  readonly code: string
  readonly expiresAtMs: number
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
    const user = this.#shutOut(known)
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

  /** @throws UserError when a container could not be deleted; the user stays then, disabled */
  async remove(known: User, report?: Report): Promise<NodeOutcome[]> {
    // Disabled first: nobody may start anew what is being deleted, and a removal that a dead node interrupts stays safe.
    const user = this.#shutOut(known)
    const containers = await this.#parts.containers.remove(user, report)
    this.#parts.users.remove(user)
    return containers
  }

  #shutOut(known: User): User {
    const user = this.#parts.users.setState(known, 'disabled')
    this.#parts.hangUp(user.id)
    return user
  }
}
