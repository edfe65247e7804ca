import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { listInstances, STATUS } from '../lxd/instances.ts'
import { findContainer } from './find-container.ts'
import { keepTrying } from './keep-trying.ts'
import { pushKeys } from './key-pushes.ts'
import type { Parts } from './parts.ts'
import type { ContainerRecord } from './records.ts'

/**
 * Puts the node right, brings keys that did not arrive, and starts what a reboot ended. What the node's silence or another operation
 * keeps from it is tried again until `signal`; a container that fails to start is left to its owner.
 */
export function resumeNode(
  parts: Parts,
  node: NodeConfig,
  start: (user: User) => Promise<unknown>,
  signal: AbortSignal
): Promise<void> {
  const { records, users, log } = parts
  const attempt = async () => {
    await parts.nodeSetup.ensure(node)
    for (const { userId } of records.listOn(node.name).filter(({ keysFault }) => keysFault)) {
      const user = users.byId(userId)
      if (user) await pushKeys(parts, user, node)
    }
    let later: UserError | undefined
    for (const { userId } of await findInterrupted(parts, node)) {
      signal.throwIfAborted()
      const user = users.byId(userId)
      // Its owner may have stopped it while others were started.
      if (user?.state !== 'enabled' || !records.find(user, node.name)?.shouldRun) continue
      // A node that is away ends it here; what is wrong with one container alone must not keep the others waiting.
      await findContainer(parts.lxdFor(node), node, user)
      await start(user).catch((err: unknown) => {
        if (!(err instanceof UserError)) throw err
        if (err.reason === 'busy' || err.reason === 'node-unavailable') later = err
        else log.warn({ node: node.name, user: user.name, err }, 'a container that a reboot ended does not start')
      })
      // LXD may have been quicker, and knows nothing of keys.
      if (records.find(user, node.name)?.keysFault) await pushKeys(parts, user, node)
    }
    if (later) throw later
    return 'done' as const
  }
  const tell = (err: unknown) => log.warn({ node: node.name, err }, 'the node is not put right yet; it is tried again')
  return keepTrying(attempt, tell, signal)
}

/**
 * The containers of a node that ended without anybody stopping them: LXD keeps `volatile.last_state.power` at RUNNING through a
 * reboot or a crash of the node, and starts those itself; here are the ones it could not. A shutdown from inside leaves STOPPED.
 */
async function findInterrupted(parts: Parts, node: NodeConfig): Promise<ContainerRecord[]> {
  const records = parts.records.listOn(node.name).filter(record => record.shouldRun)
  if (records.length === 0) return []
  const instances = await listInstances(parts.lxdFor(node))
  const interrupted = new Set(
    instances
      .filter(
        ({ status_code, config }) => status_code === STATUS.stopped && config['volatile.last_state.power'] === 'RUNNING'
      )
      .flatMap(({ devices }) => devices['eth0']?.['ipv4.address'] ?? [])
  )
  return records.filter(record => interrupted.has(record.ipv4))
}
