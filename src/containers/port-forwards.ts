import type { PortRange } from '../config.ts'
import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'

/** An extra port of a container: whoever connects to `nodePort` of the node gets to `containerPort`. TCP. */
export interface PortForward {
  readonly containerPort: number
  readonly nodePort: number
}

/** So many on one node, lest one member empties the pool. */
const MAX_FORWARDS = 10

/** The extra ports of all containers, each from the pool `forwardPorts` of its node; they outlive stops, rebuilds and recoveries. */
export class PortForwards {
  readonly #database: Database
  readonly #pool: PortRange

  constructor(database: Database, pool: PortRange) {
    this.#database = database
    this.#pool = pool
  }

  /** By container port. */
  list(user: User, node: string): PortForward[] {
    return this.#database
      .prepare<[number, string], PortForward>(
        `SELECT container_port AS containerPort, node_port AS nodePort FROM port_forwards
         WHERE user_id = ? AND node = ? ORDER BY container_port`
      )
      .all(user.id, node)
  }

  find(user: User, node: string, containerPort: number): PortForward | undefined {
    return this.list(user, node).find(forward => forward.containerPort === containerPort)
  }

  /**
   * Gives the container port the lowest free port of the pool that is not among `avoid`.
   * @throws UserError `not-allowed` beyond the tenth, `ports-exhausted`
   */
  add(user: User, node: string, containerPort: number, avoid: ReadonlySet<number> = new Set()): PortForward {
    return this.#database
      .transaction(() => {
        if (this.list(user, node).length >= MAX_FORWARDS) {
          throw new UserError('not-allowed', `You have ${MAX_FORWARDS} ports open on ${node}, which is the limit.`, {
            hint: `Close one with: ssh ${node}-manage port close PORT`
          })
        }
        const nodePort = this.#lowestFree(node, avoid)
        this.#database
          .prepare(
            'INSERT INTO port_forwards (user_id, node, container_port, node_port, opened_at_ms) VALUES (?, ?, ?, ?, ?)'
          )
          .run(user.id, node, containerPort, nodePort, Date.now())
        return { containerPort, nodePort }
      })
      .immediate()
  }

  remove(user: User, node: string, containerPort: number): void {
    this.#database
      .prepare('DELETE FROM port_forwards WHERE user_id = ? AND node = ? AND container_port = ?')
      .run(user.id, node, containerPort)
  }

  removeAll(user: User, node: string): void {
    this.#database.prepare('DELETE FROM port_forwards WHERE user_id = ? AND node = ?').run(user.id, node)
  }

  #lowestFree(node: string, avoid: ReadonlySet<number>): number {
    const { from, to, exclude } = this.#pool
    const given = this.#database.prepare<[string], number>('SELECT node_port FROM port_forwards WHERE node = ?').pluck()
    const taken = new Set([...given.all(node), ...exclude, ...avoid])
    for (let port = from; port <= to; port++) if (!taken.has(port)) return port
    throw new UserError('ports-exhausted', `All extra ports of ${node} (${from}–${to}) are given or in use.`, {
      hint: 'Close one you no longer need, or ask your admin to widen forwardPorts.'
    })
  }
}
