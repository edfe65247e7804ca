import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { findInstance, STATUS } from '../lxd/instances.ts'
import { authorizedKeys, pushAuthorizedKeys } from './authorized-keys.ts'
import type { Parts } from './parts.ts'
import { isNodeSilent } from './translate.ts'

export interface KeyPush {
  readonly node: string
  readonly outcome: 'pushed' | 'at-next-start' | 'no-container' | 'failed' | 'node-unavailable'
  /** What was in the way, for `failed`. */
  readonly fault?: string
}

const FIND_TIMEOUT_MS = 2000

const RETRY_AFTER_MS = 10_000

/**
 * Brings the member's list of keys, as it is when its turn comes, into the container if it runs; so the last list is the one that
 * stays. Takes at most 5 s then. A failure is noted for `status`; a node that does not answer is tried again until it does.
 */
export async function pushKeys(parts: Parts, user: User, node: NodeConfig): Promise<KeyPush> {
  const id = `${user.id}@${node.name}`
  clearTimeout(parts.keyRetries.get(id))
  parts.keyRetries.delete(id)
  const push = await parts.keyTurns.take(id, () => pushNow(parts, user, node))
  if (push.outcome === 'node-unavailable' && !parts.keyRetries.has(id)) {
    const again = () =>
      pushKeys(parts, user, node).catch((err: unknown) =>
        parts.log.warn({ err, user: user.name }, 'no keys were pushed')
      )
    parts.keyRetries.set(id, setTimeout(() => void again(), RETRY_AFTER_MS).unref())
  }
  return push
}

async function pushNow({ records, keys, delivered, lxdFor }: Parts, user: User, node: NodeConfig): Promise<KeyPush> {
  if (!records.find(user, node.name)) return { node: node.name, outcome: 'no-container' }
  const lxd = lxdFor(node)
  try {
    const instance = await findInstance(lxd, user.name, { timeoutMs: FIND_TIMEOUT_MS })
    if (!instance) return { node: node.name, outcome: 'no-container' }
    if (instance.status_code !== STATUS.running) return { node: node.name, outcome: 'at-next-start' }
    const { content } = authorizedKeys(user, keys)
    const id = `${user.id}@${node.name}`
    delivered.delete(id)
    const fault = await pushAuthorizedKeys(lxd, user, content)
    if (fault === undefined) delivered.set(id, content)
    records.setKeysFault(
      user,
      node.name,
      fault && `Your list of keys could not be written into the container: ${fault}.`
    )
    return fault === undefined ? { node: node.name, outcome: 'pushed' } : { node: node.name, outcome: 'failed', fault }
  } catch (error) {
    if (!isNodeSilent(error)) throw error
    records.setKeysFault(user, node.name, `Your list of keys has not arrived: ${node.name} did not answer.`)
    return { node: node.name, outcome: 'node-unavailable' }
  }
}
