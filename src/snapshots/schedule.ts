import type { Config, NodeConfig } from '../config.ts'
import type { Cron } from '../config/cron.ts'
import { Turns } from '../containers/turns.ts'
import type { User, Users } from '../directory/users.ts'
import type { Log } from '../log.ts'
import type { Snapshots } from './snapshots.ts'

interface ScheduleParts {
  readonly config: Config
  readonly snapshots: Snapshots
  readonly users: Users
  readonly log: Log
  /** Names of the nodes where a user has a container. */
  nodesOf(user: User): readonly string[]
}

const MINUTE_MS = 60_000

/** Takes the scheduled snapshots, one after the other on each node, and deletes those whose time is over. */
export class Schedule {
  readonly #parts: ScheduleParts
  readonly #turns = new Turns()
  /** `user@node` that wait for their turn or have it. */
  readonly #due = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(parts: ScheduleParts) {
    this.#parts = parts
  }

  /** From now on looks at the clock every minute; what fell into the time before is not made up for. */
  start(): void {
    const { all, users } = this.#parts.config.snapshots.schedule
    if (all === 'off' && Object.keys(users).length === 0) return
    const wait = () => {
      this.#timer = setTimeout(
        () => {
          // Timers may come a little early: round to the minute that is meant.
          this.#look(new Date(Math.round(Date.now() / MINUTE_MS) * MINUTE_MS))
          wait()
        },
        MINUTE_MS - (Date.now() % MINUTE_MS)
      ).unref()
    }
    wait()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #look(minute: Date): void {
    const { users, config, nodesOf } = this.#parts
    const schedule = config.snapshots.schedule
    const own: ReadonlyMap<string, Cron | 'off'> = new Map(Object.entries(schedule.users))
    for (const user of users.list().filter(({ state }) => state === 'enabled')) {
      const cron = own.get(user.name) ?? schedule.all
      if (cron === 'off' || !cron(minute)) continue
      for (const node of nodesOf(user).flatMap(name => config.nodes.get(name) ?? [])) {
        const name = `${user.name}@${node.name}`
        if (this.#due.has(name)) continue
        this.#due.add(name)
        void this.#turns.take(node.name, () => this.#take(user, node)).finally(() => this.#due.delete(name))
      }
    }
  }

  /** Where a copy takes its time, the member would have to wait for it: such pools are left to the member. */
  async #take(user: User, node: NodeConfig): Promise<void> {
    if (!this.#timer) return
    const { snapshots, log } = this.#parts
    const about = { user: user.name, node: node.name }
    try {
      const { space } = await snapshots.plan(user, node, { scheduled: true })
      if (!space.copiesOnWrite) return log.warn(about, 'no scheduled snapshot: the pool has no copy-on-write')
      const options = { note: '', scheduled: true, confirm: () => {}, onCopied: () => {} }
      const { name, sizeBytes, tookMs } = await snapshots.take(user, node, options, () => {})
      log.info({ ...about, name, sizeBytes, tookMs }, 'scheduled snapshot taken')
      await snapshots.prune(user)
    } catch (err) {
      log.warn({ ...about, err }, 'no scheduled snapshot')
    }
  }
}
