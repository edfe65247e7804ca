import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { Report } from '../operations/operations.ts'
import { getInstanceState, setInstanceState, STATUS } from '../lxd/instances.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { findContainer } from './find-container.ts'
import type { Parts } from './parts.ts'
import { blame, isNodeSilent, tellAdmin } from './translate.ts'

export type StopOutcome = 'stopped' | 'killed' | 'already-stopped'

/** LXD's own waiting ends first; ours is for an LXD that does not answer. */
const SPARE_MS = 15_000
const KILL_TIMEOUT_MS = 60_000

/**
 * Asks the container to shut down, and kills it when it has not within `timeoutMs`.
 * @throws UserError `not-registered`, `stop-failed`, `node-unavailable`
 */
export async function stopContainer(
  parts: Parts,
  user: User,
  node: NodeConfig,
  timeoutMs: number,
  report: Report
): Promise<StopOutcome> {
  parts.records.need(user, node.name)
  const lxd = parts.lxdFor(node)
  const stopFailed = blame(node, 'stop-failed', tellAdmin(node))
  const instance = await findContainer(lxd, node, user)
  parts.records.setShouldRun(user, node.name, false)
  if (!instance || instance.status_code === STATUS.stopped) return 'already-stopped'
  if (timeoutMs > 0) {
    report('asking it to shut down')
    try {
      await setInstanceState(lxd, user.name, 'stop', { graceMs: timeoutMs, timeoutMs: timeoutMs + SPARE_MS })
      return 'stopped'
    } catch (error) {
      if (!(error instanceof LxdError) || (isNodeSilent(error) && error.fault !== 'timed-out')) return stopFailed(error)
      const state = await getInstanceState(lxd, user.name).catch(stopFailed)
      if (state.status_code === STATUS.stopped) return 'stopped'
    }
  }
  report('killing what is left')
  await setInstanceState(lxd, user.name, 'stop', { force: true, timeoutMs: KILL_TIMEOUT_MS }).catch(stopFailed)
  return 'killed'
}
