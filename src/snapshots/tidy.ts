import type { NodeConfig } from '../config.ts'
import type { Parts } from '../containers/parts.ts'
import type { User, Users } from '../directory/users.ts'
import { absentIfNotFound } from '../lxd/client.ts'
import { deleteInstance, listInstances } from '../lxd/instances.ts'
import { awaitOperationsOn } from '../lxd/operations.ts'
import type { Operations } from '../operations/operations.ts'
import { parseTemporaryName } from './temporary-names.ts'

interface TidyParts {
  readonly parts: Parts
  readonly operations: Operations
  readonly users: Users
}

/**
 * Deletes what stands beside the containers of a node and is nobody's any more: replaced containers whose time is over, and what a
 * dead operation left, should LXD have made it after everything was resolved. What an operation may be working on is left alone.
 * @throws LxdError
 */
export async function tidyNode(
  { parts, operations, users }: TidyParts,
  node: NodeConfig,
  keepMs: number
): Promise<void> {
  const lxd = parts.lxdFor(node)
  const isIdle = (user: User | undefined) =>
    !user || (!operations.running(user, node.name) && !operations.archiving(user, node.name))
  for (const { userId, instance } of parts.kept.listBefore(node.name, Date.now() - keepMs)) {
    // It may just be on its way back.
    if (!isIdle(users.byId(userId))) continue
    await remove(parts, node, instance)
    parts.kept.forget(node.name, instance)
  }
  for (const user of users.list()) await deleteOlder(parts, user, node)
  // Listed before anybody is asked whether they are at work: who begins later makes another name.
  for (const { name } of await listInstances(lxd)) {
    const temporary = parseTemporaryName(name)
    if (!temporary) continue
    const isWanted =
      temporary.purpose === 'Old' && (parts.kept.has(node.name, name) || temporary.madeAtMs > Date.now() - keepMs)
    if (isWanted || !isIdle(users.find(temporary.user))) continue
    await awaitOperationsOn(lxd, [name])
    await remove(parts, node, name)
  }
}

/** Of a user's replaced containers only the newest is kept. */
async function deleteOlder(parts: Parts, user: User, node: NodeConfig): Promise<void> {
  try {
    for (const { instance } of parts.kept.listOlder(user, node.name)) {
      await remove(parts, node, instance)
      parts.kept.forget(node.name, instance)
    }
  } catch (err) {
    parts.log.warn({ node: node.name, user: user.name, err }, 'replaced containers are left')
  }
}

async function remove(parts: Parts, node: NodeConfig, name: string): Promise<void> {
  parts.log.info({ node: node.name, instance: name }, 'deleting what is no longer needed')
  await deleteInstance(parts.lxdFor(node), name).catch(absentIfNotFound)
}
