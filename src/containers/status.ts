import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { ConfigMap, DeviceMap } from '../lxd/answer.ts'
import { absentIfNotFound } from '../lxd/client.ts'
import { getInstanceState, STATUS, type Instance, type InstanceState } from '../lxd/instances.ts'
import type { RunningOperation } from '../operations/operations.ts'
import type { ContainerStatus } from './container-status.ts'
import { findContainer } from './find-container.ts'
import type { Health } from './health.ts'
import { forwardingOf } from './instance-plan.ts'
import type { Parts } from './parts.ts'
import type { ContainerRecord } from './records.ts'
import { ANSWER_TIMEOUT_MS, blame, tellAdmin } from './translate.ts'

/** Two reads of LXD; a look inside at most every few seconds. @throws UserError `not-registered`, `node-unavailable` */
export async function readStatus(
  parts: Parts,
  health: Health,
  user: User,
  node: NodeConfig,
  operation: RunningOperation | undefined
): Promise<ContainerStatus> {
  const record = parts.records.need(user, node.name)
  const lxd = parts.lxdFor(node)
  const [instance, state] = await Promise.all([
    findContainer(lxd, node, user),
    getInstanceState(lxd, user.name, { timeoutMs: ANSWER_TIMEOUT_MS })
      .catch(absentIfNotFound)
      .catch(blame(node, 'node-unavailable', tellAdmin(node)))
  ])
  const kept = describeKept(parts, user, node)
  const running = state?.status_code === STATUS.running
  // While it is being started or stopped nothing needs to be as it should.
  const inside = running && !operation && record.provisionedAtMs ? await health.faults(lxd, node, user) : []
  if (inside.length > 0) parts.ailing.add(`${user.id}@${node.name}`)
  return {
    ...describeInstance(instance, state),
    node: node.name,
    name: user.name,
    template: record.template,
    fixedPort: user.fixedPort,
    address: node.address,
    addresses: [record.ipv4],
    ports: parts.forwards.list(user, node.name),
    faults: [...recordFaults(record, node, instance, operation, kept), ...parts.nodeSetup.faults(node), ...inside],
    kept,
    operation
  }
}

function describeKept({ kept, config }: Parts, user: User, node: NodeConfig): ContainerStatus['kept'] {
  const newest = kept.newest(user, node.name)
  if (!newest) return undefined
  const { template, replacedAtMs } = newest
  return { template, replacedAtMs, untilMs: replacedAtMs + config.recovery.keepReplaced }
}

function recordFaults(
  record: ContainerRecord,
  node: NodeConfig,
  instance: Instance | undefined,
  operation: RunningOperation | undefined,
  kept: ContainerStatus['kept']
): string[] {
  const faults: string[] = []
  if (!instance && !operation) {
    faults.push(`LXD has no such container. Make it anew with: ssh register@${node.name}-manage NAME`)
  } else if (
    record.provisionedAtMs === undefined &&
    !operation &&
    !(kept && instance?.status_code === STATUS.stopped)
  ) {
    // A container that has just replaced another is set up when it is first started, as it should be.
    faults.push(`It was never set up to its end. Go on with: ssh ${node.name}-manage start`)
  }
  if (record.keysFault !== undefined) faults.push(record.keysFault)
  return faults
}

type FromInstance = Pick<
  ContainerStatus,
  'state' | 'startedAtMs' | 'forwarding' | 'cpu' | 'memory' | 'disk' | 'processes' | 'gpus' | 'mounts'
>

function describeInstance(instance: Instance | undefined, state: InstanceState | undefined): FromInstance {
  const config: ConfigMap = instance?.expanded_config ?? {}
  const devices: DeviceMap = instance?.expanded_devices ?? {}
  const running = state?.status_code === STATUS.running
  const all = Object.values(devices)
  return {
    state: instance ? (state?.status ?? instance.status).toLowerCase() : 'missing',
    startedAtMs: running && instance ? Date.parse(state.started_at || instance.last_used_at) : undefined,
    forwarding: forwardingOf(devices) ?? 'nat',
    cpu: {
      usedMs: running && state.cpu ? Math.round(state.cpu.usage / 1e6) : undefined,
      limit: config['limits.cpu'] === undefined ? undefined : Number(config['limits.cpu'])
    },
    memory: { usedBytes: running ? state.memory?.usage : undefined, limitBytes: parseSize(config['limits.memory']) },
    disk: { usedBytes: state?.disk['root']?.usage, limitBytes: parseSize(devices['root']?.['size']) },
    processes: {
      used: running && state.processes >= 0 ? state.processes : undefined,
      limit: config['limits.processes'] === undefined ? undefined : Number(config['limits.processes'])
    },
    gpus: all.flatMap(({ type, pci, path }) =>
      type === 'gpu' ? [pci ?? 'gpu'] : type === 'unix-char' && path ? [path] : []
    ),
    mounts: all.flatMap(({ type, path, source }) => (type === 'disk' && source !== undefined && path ? [path] : []))
  }
}

/** LXD's sizes as berth writes them (bytes) or as an admin may have (`64GiB`); undefined for what is neither. */
function parseSize(text: string | undefined): number | undefined {
  const [, amount, prefix = '', binary] = /^(\d+)(?:([kKMGTPE])(i)?)?B?$/.exec(text ?? '') ?? []
  if (amount === undefined) return undefined
  return Number(amount) * (binary ? 1024 : 1000) ** ' KMGTPE'.indexOf(prefix.toUpperCase() || ' ')
}
