import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { contains, formatIpv4, parseIpv4, parseNetwork } from './ipv4.ts'

/** To close the forwards, or to stop the container as well. */
export type ShutOutOwed = 'close' | 'stop'

/** What berth means a member to have on a node. */
export interface ContainerRecord {
  readonly userId: number
  readonly node: string
  readonly template: string
  readonly ipv4: string
  readonly createdAtMs: number
  readonly provisionedAtMs: number | undefined
  /** It was started and not stopped since: after a reboot of the node it runs again. */
  readonly shouldRun: boolean
  /** What is wrong with berth's files in the container, in a sentence; the next start writes them anew. */
  readonly keysFault: string | undefined
  /** What disabling its owner has not done to it yet. */
  readonly shutOutOwed: ShutOutOwed | undefined
}

interface Row {
  user_id: number
  node: string
  template: string
  ipv4: string
  created_at_ms: number
  provisioned_at_ms: number | null
  should_run: number
  keys_fault: string | null
  shut_out_owed: ShutOutOwed | null
}

const fromRow = (row: Row): ContainerRecord => ({
  userId: row.user_id,
  node: row.node,
  template: row.template,
  ipv4: row.ipv4,
  createdAtMs: row.created_at_ms,
  provisionedAtMs: row.provisioned_at_ms ?? undefined,
  shouldRun: row.should_run === 1,
  keysFault: row.keys_fault ?? undefined,
  shutOutOwed: row.shut_out_owed ?? undefined
})

export class ContainerRecords {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  find(user: User, node: string): ContainerRecord | undefined {
    const row = this.#database
      .prepare<[number, string], Row>('SELECT * FROM containers WHERE user_id = ? AND node = ?')
      .get(user.id, node)
    return row && fromRow(row)
  }

  /** @throws UserError `not-registered` */
  need(user: User, node: string): ContainerRecord {
    const record = this.find(user, node)
    if (record) return record
    throw new UserError('not-registered', `${user.name} has none on ${node}.`, {
      hint: `Make it with: ssh register@${node}-manage ${user.name}`
    })
  }

  listFor(user: User): ContainerRecord[] {
    return this.#database
      .prepare<[number], Row>('SELECT * FROM containers WHERE user_id = ? ORDER BY node')
      .all(user.id)
      .map(fromRow)
  }

  listOn(node: string): ContainerRecord[] {
    return this.#database
      .prepare<[string], Row>('SELECT * FROM containers WHERE node = ? ORDER BY user_id')
      .all(node)
      .map(fromRow)
  }

  /**
   * The member's record on a node with an address of `bridge` (such as 10.20.30.1/24): made when missing, moved to a new
   * address when the bridge has another network since.
   * @throws UserError `addresses-exhausted`
   */
  claim(user: User, node: string, template: string, bridge: string): ContainerRecord {
    return this.#database
      .transaction(() => {
        const known = this.find(user, node)
        if (known && contains(parseNetwork(bridge), parseIpv4(known.ipv4))) return known
        const ipv4 = this.#freeAddress(node, bridge)
        this.#database
          .prepare(
            `INSERT INTO containers (user_id, node, template, ipv4, created_at_ms) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (user_id, node) DO UPDATE SET ipv4 = excluded.ipv4`
          )
          .run(user.id, node, template, ipv4, Date.now())
        return this.need(user, node)
      })
      .immediate()
  }

  /** For a container that is made anew: nothing in it has been set up. */
  reset(user: User, node: string, template: string): void {
    this.#database
      .prepare('UPDATE containers SET template = ?, provisioned_at_ms = NULL WHERE user_id = ? AND node = ?')
      .run(template, user.id, node)
  }

  setProvisioned(user: User, node: string): void {
    this.#database
      .prepare('UPDATE containers SET provisioned_at_ms = ? WHERE user_id = ? AND node = ?')
      .run(Date.now(), user.id, node)
  }

  setShouldRun(user: User, node: string, shouldRun: boolean): void {
    this.#database
      .prepare('UPDATE containers SET should_run = ? WHERE user_id = ? AND node = ?')
      .run(shouldRun ? 1 : 0, user.id, node)
  }

  setKeysFault(user: User, node: string, fault: string | undefined): void {
    this.#database
      .prepare('UPDATE containers SET keys_fault = ? WHERE user_id = ? AND node = ?')
      .run(fault ?? null, user.id, node)
  }

  setShutOutOwed(user: User, node: string, owed: ShutOutOwed | undefined): void {
    this.#database
      .prepare('UPDATE containers SET shut_out_owed = ? WHERE user_id = ? AND node = ?')
      .run(owed ?? null, user.id, node)
  }

  forget(user: User, node: string): void {
    this.#database.prepare('DELETE FROM containers WHERE user_id = ? AND node = ?').run(user.id, node)
  }

  #freeAddress(node: string, bridge: string): string {
    const network = parseNetwork(bridge)
    const taken = new Set(
      this.#database.prepare<[string], string>('SELECT ipv4 FROM containers WHERE node = ?').pluck().all(node)
    )
    taken.add(bridge.split('/')[0] as string)
    for (let address = network.first + 1; address < network.last; address++) {
      const text = formatIpv4(address)
      if (!taken.has(text)) return text
    }
    throw new UserError('addresses-exhausted', `Every address of ${bridge} on ${node} is given.`, {
      hint: 'The admin can give the bridge a wider network: lxc network set BRIDGE ipv4.address 10.X.0.1/20'
    })
  }
}
