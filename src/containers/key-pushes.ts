import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { findInstance, STATUS } from '../lxd/instances.ts'
import { authorizedKeys, pushAuthorizedKeys } from './authorized-keys.ts'
import type { Parts } from './parts.ts'
import { isNodeSilent } from './translate.ts'
import { Turns } from './turns.ts'

export interface KeyPush {
  readonly node: string
  readonly outcome: 'pushed' | 'at-next-start' | 'no-container' | 'failed' | 'node-unavailable'
  /** What was in the way, for `failed`. */
  readonly fault?: string
}

const FIND_TIMEOUT_MS = 2000

/** Brings lists of keys into running containers, one push at a time for each, so that the last list given is the one that stays. */
export class KeyPushes {
  readonly #parts: Parts
  readonly #turns = new Turns()

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** Takes at most 5 s once its turn has come. A failure is noted for `status`. */
  push(user: User, node: NodeConfig): Promise<KeyPush> {
    return this.#turns.take(`${user.id}@${node.name}`, () => this.#push(user, node))
  }

  async #push(user: User, node: NodeConfig): Promise<KeyPush> {
    const { records, keys } = this.#parts
    if (!records.find(user, node.name)) return { node: node.name, outcome: 'no-container' }
    const lxd = this.#parts.lxdFor(node)
    try {
      const instance = await findInstance(lxd, user.name, { timeoutMs: FIND_TIMEOUT_MS })
      if (!instance) return { node: node.name, outcome: 'no-container' }
      if (instance.status_code !== STATUS.running) return { node: node.name, outcome: 'at-next-start' }
      const fault = await pushAuthorizedKeys(lxd, user, authorizedKeys(user, keys).content)
      records.setKeysFault(user, node.name, fault)
      return fault === undefined
        ? { node: node.name, outcome: 'pushed' }
        : { node: node.name, outcome: 'failed', fault }
    } catch (error) {
      if (!isNodeSilent(error)) throw error
      records.setKeysFault(user, node.name, 'the node did not answer')
      return { node: node.name, outcome: 'node-unavailable' }
    }
  }
}
