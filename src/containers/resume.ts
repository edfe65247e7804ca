import type { NodeConfig } from '../config.ts'
import { listInstances, STATUS } from '../lxd/instances.ts'
import type { Parts } from './parts.ts'
import type { ContainerRecord } from './records.ts'

/**
 * The containers of a node that ended without anybody stopping them: LXD keeps `volatile.last_state.power` at RUNNING through a
 * reboot or a crash of the node, and starts those itself; here are the ones it could not. A shutdown from inside leaves STOPPED.
 */
export async function findInterrupted(parts: Parts, node: NodeConfig): Promise<ContainerRecord[]> {
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
