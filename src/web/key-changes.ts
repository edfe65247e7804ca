import { setTimeout as sleep } from 'node:timers/promises'
import type { Containers, KeyPush } from '../containers/containers.ts'
import type { PublicKey } from '../directory/public-key.ts'
import type { User } from '../directory/users.ts'
import type { Log } from '../log.ts'

/** Most changes have arrived everywhere by then, and the page can say so at once. */
const PATIENCE_MS = 1500
/** How long the page tells of the last change. */
const SHOWN_MS = 10 * 60_000

interface Change {
  readonly kind: 'added' | 'removed'
  readonly keys: readonly PublicKey[]
}

interface Followed extends Change {
  readonly atMs: number
  readonly pushes: KeyPush[]
  waiting: boolean
}

/** The last change of each member's keys, and the nodes it has reached. */
export class KeyChanges {
  readonly #containers: Containers
  readonly #log: Log
  readonly #followed = new Map<number, Followed>()

  constructor(containers: Containers, log: Log) {
    this.#containers = containers
    this.#log = log
  }

  /** Sends the member's list of keys to all nodes; resolves when it has reached them, or some are slow. */
  async follow(user: User, change: Change): Promise<readonly KeyPush[]> {
    this.#forget()
    const followed: Followed = { ...change, atMs: Date.now(), pushes: [], waiting: true }
    this.#followed.set(user.id, followed)
    const pushed = this.#containers
      .pushKeys(user, push => followed.pushes.push(push))
      .catch((err: unknown) => this.#log.error({ err, user: user.name }, 'no keys were pushed'))
      .then(() => {
        followed.waiting = false
      })
    await Promise.race([pushed, sleep(PATIENCE_MS, undefined, { ref: false })])
    return followed.pushes
  }

  /** For the page: what changed, and each node as soon as it is known. */
  last(user: User) {
    const followed = this.#followed.get(user.id)
    if (!followed || followed.atMs < Date.now() - SHOWN_MS) return undefined
    const told = followed.pushes.filter(({ outcome }) => outcome !== 'no-container')
    return {
      isAdded: followed.kind === 'added' && followed.keys.length > 0,
      isRemoved: followed.kind === 'removed',
      isNothing: followed.keys.length === 0,
      keys: followed.keys.map(({ fingerprint, comment }) => ({ fingerprint, comment })),
      waiting: followed.waiting,
      pushes: told.map(({ node, outcome, fault }) => ({ node, outcome, word: `push.${outcome}`, fault: fault ?? '' }))
    }
  }

  #forget(): void {
    for (const [userId, { atMs }] of this.#followed) {
      if (atMs < Date.now() - SHOWN_MS) this.#followed.delete(userId)
    }
  }
}
