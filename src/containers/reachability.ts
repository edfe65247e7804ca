import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { LxdClient } from '../lxd/client.ts'
import { execCaptured } from '../lxd/exec.ts'
import { getInstanceState, STATUS } from '../lxd/instances.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import type { HostKey } from './host-keys.ts'
import type { ProbeHostKey } from './parts.ts'

/** A container whose sshd has not answered by then will not without help. */
const PATIENCE_MS = 30_000
/** Short: a connection begun before the container has its address hangs until TCP tries again, a second later. */
const CONNECT_TIMEOUT_MS = 150
const PAUSE_MS = 30
/** An sshd that shows another key is asked again: the member may have one run before the container's own. */
const LONG_PAUSE_MS = 500
const MAX_OTHER_KEYS = 4
const LOOK_EVERY_MS = 2000
/** Once the container's own systemd has started all it will start, its sshd gets this long. */
const SETTLED_PATIENCE_MS = 4000
const ASK_TIMEOUT_MS = 1500

/** Where the fixed port is reached from the berth machine. */
export function fixedPortHost(node: NodeConfig): string {
  return /^(0\.0\.0\.0|::)$/.test(node.listenAddress) ? node.address : node.listenAddress
}

/**
 * Waits until the container's sshd shows one of its host keys through the fixed port, or keeps showing another.
 * @throws UserError `start-failed` when the container stopped again; `unreachable` naming the step that fails
 */
export async function waitForSshd(
  lxd: LxdClient,
  node: NodeConfig,
  user: User,
  hostKeys: readonly HostKey[],
  probeHostKey: ProbeHostKey,
  patienceMs: number = PATIENCE_MS
): Promise<'ours' | 'other-key'> {
  const host = fixedPortHost(node)
  let deadlineMs = performance.now() + patienceMs
  let otherKeys = 0
  let lookMs = performance.now() + LOOK_EVERY_MS
  for (;;) {
    const found = (await accepts(host, user.fixedPort))
      ? await probeHostKey(host, user.fixedPort, { timeoutMs: 5000 }).catch(() => undefined)
      : undefined
    if (found && hostKeys.some(key => key.publicKey === found.publicKey)) return 'ours'
    otherKeys = found ? otherKeys + 1 : 0
    if (otherKeys === MAX_OTHER_KEYS) return 'other-key'
    const nowMs = performance.now()
    if (nowMs > lookMs) {
      lookMs = nowMs + LOOK_EVERY_MS
      const { status_code } = await getInstanceState(lxd, user.name)
      if (status_code !== STATUS.running) throw stoppedAgain(node)
      if (await hasSettled(lxd, user)) deadlineMs = Math.min(deadlineMs, nowMs + SETTLED_PATIENCE_MS)
    }
    if (nowMs > deadlineMs) throw await explain(lxd, node, user)
    await sleep(found ? LONG_PAUSE_MS : PAUSE_MS)
  }
}

/** systemctl(1), is-system-running: `running` or `degraded` when no start job is left. */
async function hasSettled(lxd: LxdClient, user: User): Promise<boolean> {
  const command = ['systemctl', 'is-system-running']
  const asked = await execCaptured(lxd, user.name, { command, timeoutMs: ASK_TIMEOUT_MS, maxBytes: 1024 }).catch(
    (error: unknown) => {
      if (!(error instanceof LxdError)) throw error
    }
  )
  return /^(running|degraded)\n/.test(asked?.stdout ?? '')
}

/** Does somebody take TCP connections there? */
export async function accepts(host: string, port: number, timeoutMs: number = CONNECT_TIMEOUT_MS): Promise<boolean> {
  const socket = connect({ host, port })
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(timeoutMs) })
    return true
  } catch {
    return false
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}

/** What to tell when somebody answers at the fixed port, but not the container as it is known. */
export function otherKey(node: NodeConfig, user: User): UserError {
  const where = `${node.address} port ${user.fixedPort}`
  return new UserError('unreachable', `At ${where} an SSH server answers with another host key than the container's.`, {
    hint: `If the host keys inside were changed, \`ssh ${node.name}-manage restart\` puts them back; else something else listens there: tell your admin.`
  })
}

async function explain(lxd: LxdClient, node: NodeConfig, user: User): Promise<UserError> {
  const where = `${node.address} port ${user.fixedPort}`
  const { status_code, network } = await getInstanceState(lxd, user.name)
  if (status_code !== STATUS.running) return stoppedAgain(node)
  const addresses = network['eth0']?.addresses.filter(({ family }) => family === 'inet') ?? []
  const details =
    addresses.length === 0
      ? 'It has no network address: its network is not set up inside.'
      : `No SSH server answers at ${where}: the container's sshd does not run, or is not let through.`
  return new UserError('unreachable', details, { hint: `Look inside with: ssh -t ${node.name}-manage shell` })
}

const stoppedAgain = (node: NodeConfig): UserError =>
  new UserError('start-failed', 'It ended again by itself right after it was started.', {
    hint: `Try again with: ssh ${node.name}-manage start. If it stays so, tell your admin.`
  })
