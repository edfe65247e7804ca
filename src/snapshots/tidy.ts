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
  const remove = async (name: string) => {
    parts.log.info({ node: node.name, instance: name }, 'deleting what is no longer needed')
    await deleteInstance(lxd, name).catch(absentIfNotFound)
  }
  for (const { userId, instance } of parts.kept.listDue(node.name, Date.now() - keepMs)) {
    if (!isIdle(users.byId(userId))) continue
    await remove(instance)
    parts.kept.forget(node.name, instance)
  }
  // Listed before anybody is asked whether they are at work: who begins later makes another name.
  for (const { name } of await listInstances(lxd)) {
    const temporary = parseTemporaryName(name)
    if (!temporary) continue
    const isWanted =
      temporary.purpose === 'Old' && (parts.kept.has(node.name, name) || temporary.madeAtMs > Date.now() - keepMs)
    if (isWanted || !isIdle(users.find(temporary.user))) continue
    await awaitOperationsOn(lxd, [name])
    await remove(name)
  }
}
