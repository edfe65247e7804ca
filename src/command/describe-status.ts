import type { Colors } from 'picocolors/types.ts'
import type { NodeConfig } from '../config.ts'
import type { ContainerStatus } from '../containers/container-status.ts'
import type { User } from '../directory/users.ts'
import { loginLine, manageLine, plainLoginLine } from './lines.ts'
import { formatBytes, formatDuration, formatTime } from './units.ts'

/** `status` as people read it: one fact a line, faults last. */
export function describeStatus(status: ContainerStatus, user: User, node: NodeConfig, colors: Colors): string {
  const running = status.state === 'running'
  const uptime = status.startedAtMs === undefined ? '' : `, up ${formatDuration(Date.now() - status.startedAtMs)}`
  const facts: [string, string | undefined][] = [
    ['container', `${status.name} on ${status.node} (${status.template})`],
    ['state', (running ? colors.green : colors.yellow)(status.state) + uptime],
    ['running now', describeOperation(status)],
    running ? ['log in', `${loginLine(node)}    or: ${plainLoginLine(node, user)}`] : ['start it', manageLine(node)],
    ['addresses', status.addresses.join(', ')],
    ['extra ports', status.ports.map(port => `${status.address}:${port.nodePort} → ${port.containerPort}`).join(', ')],
    ['cpu', describeCpu(status)],
    ['memory', describeUse(status.memory.usedBytes, status.memory.limitBytes, formatBytes)],
    ['disk', describeUse(status.disk.usedBytes, status.disk.limitBytes, formatBytes)],
    ['processes', describeUse(status.processes.used, status.processes.limit, String)],
    ['gpus', status.gpus.join(', ')],
    ['mounts', status.mounts.join(', ')],
    ['kept', describeKept(status, node)]
  ]
  const lines = facts
    .filter(([, fact]) => fact !== undefined && fact !== '')
    .map(([name, fact]) => `${colors.dim(name.padEnd(12))}${fact}`)
  for (const fault of status.faults) lines.push(`${colors.red('fault'.padEnd(12))}${fault}`)
  return lines.join('\n')
}

function describeOperation({ operation }: ContainerStatus): string | undefined {
  if (!operation) return undefined
  const step = operation.step === undefined ? '' : `: ${operation.step}`
  return `${operation.kind} for ${formatDuration(Date.now() - operation.startedAtMs)}${step}`
}

/** It counts against nobody's limits, but it is there. */
function describeKept({ kept }: ContainerStatus, node: NodeConfig): string | undefined {
  if (!kept) return undefined
  const until = `${formatTime(kept.untilMs)} UTC`
  return `1 replaced container (${kept.template}) until ${until}; back with: ${manageLine(node, 'recover --undo')}`
}

function describeCpu({ cpu, startedAtMs }: ContainerStatus): string | undefined {
  const limit = cpu.limit === undefined ? 'all cores' : `${cpu.limit} ${cpu.limit === 1 ? 'core' : 'cores'}`
  if (cpu.usedMs === undefined || startedAtMs === undefined) return limit
  return `${limit}, ${formatDuration(cpu.usedMs)} of processor time used since the start`
}

function describeUse(
  used: number | undefined,
  limit: number | undefined,
  format: (value: number) => string
): string | undefined {
  const of = limit === undefined ? 'unlimited' : format(limit)
  if (used === undefined) return limit === undefined ? undefined : `limit ${of}`
  const share = limit === undefined ? '' : ` (${Math.round((used / limit) * 100)} %)`
  return `${format(used)} of ${of}${share}`
}
