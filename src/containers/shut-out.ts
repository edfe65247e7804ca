import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { Report } from '../operations/operations.ts'
import { closeFixedPort } from './access.ts'
import { findContainer } from './find-container.ts'
import { isAway, keepTrying } from './keep-trying.ts'
import { pushKeys } from './key-pushes.ts'
import type { Parts } from './parts.ts'
import { stopContainer } from './stop.ts'

const STOP_TIMEOUT_MS = 30_000

/** Does to a disabled member's container what is owed: no fixed port, no keys, and stopped unless it is to go on. */
export async function shutOut(parts: Parts, user: User, node: NodeConfig, report: Report): Promise<string> {
  const { shutOutOwed } = parts.records.need(user, node.name)
  // Enabled again while this waited for its turn, or shut out by another.
  if (shutOutOwed === undefined) return 'nothing to do'
  await closeFixedPort(parts, user, node)
  if (shutOutOwed === 'stop') await stopContainer(parts, user, node, STOP_TIMEOUT_MS, report)
  const { outcome } = await pushKeys(parts, user, node)
  // Whoever asked for more meanwhile has joined this, and waits for it.
  if (parts.records.need(user, node.name).shutOutOwed !== shutOutOwed) return shutOut(parts, user, node, report)
  if (outcome !== 'node-unavailable') parts.records.setShutOutOwed(user, node.name, undefined)
  return outcome === 'at-next-start' ? 'stopped' : 'runs without access'
}

/**
 * Until `signal`: whom `disable` has not reached on a node is shut out as soon as the node answers. One whose container is busy or does
 * not stop keeps nobody else waiting.
 */
export function keepShuttingOut(
  parts: Parts,
  node: NodeConfig,
  carryOut: (user: User) => Promise<unknown>,
  signal: AbortSignal
): Promise<void> {
  const { records, users, log } = parts
  const attempt = async () => {
    let later: Error | undefined
    for (const { userId } of records.listOn(node.name).filter(({ shutOutOwed }) => shutOutOwed)) {
      signal.throwIfAborted()
      const user = users.byId(userId)
      if (!user) continue
      if (user.state === 'enabled') {
        // Let in again by a berth that was killed before it had noted so.
        records.setShutOutOwed(user, node.name, undefined)
        continue
      }
      try {
        // Asked before it becomes an operation: the list of those would fill with attempts.
        await findContainer(parts.lxdFor(node), node, user)
        await carryOut(user)
        log.info({ node: node.name, user: user.name }, 'shut out of the node that was away')
      } catch (error) {
        if (isAway(error)) throw error
        later = error as Error
      }
    }
    if (later) throw later
    return 'again' as const
  }
  const tell = (err: unknown) => log.warn({ node: node.name, err }, 'a disabled user is not shut out yet')
  return keepTrying(attempt, tell, signal)
}
