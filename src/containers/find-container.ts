import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { LxdClient } from '../lxd/client.ts'
import { findInstance, type Instance } from '../lxd/instances.ts'
import { ANSWER_TIMEOUT_MS, blame, tellAdmin } from './translate.ts'

/** The member's instance as LXD has it; undefined when there is none. @throws UserError `node-unavailable`, within 5 s */
export function findContainer(
  lxd: LxdClient,
  node: NodeConfig,
  user: User
): Promise<(Instance & { etag: string }) | undefined> {
  const options = { timeoutMs: ANSWER_TIMEOUT_MS }
  return findInstance(lxd, user.name, options).catch(blame(node, 'node-unavailable', tellAdmin(node)))
}
