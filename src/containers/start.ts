import { isDeepStrictEqual } from 'node:util'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { LxdClient } from '../lxd/client.ts'
import { statFile } from '../lxd/files.ts'
import { getInstanceState, setInstanceState, STATUS, updateInstance, type Instance } from '../lxd/instances.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import type { Report } from '../operations/operations.ts'
import { authorizedKeys, KEYS_DIRECTORY } from './authorized-keys.ts'
import { hostKeyFiles } from './host-keys.ts'
import { chooseForwarding, forwardingOf, planDevices, withoutForwards } from './instance-plan.ts'
import { pushKeys } from './key-pushes.ts'
import type { NodeFacts } from './node-setup.ts'
import { assignOwnIdmap } from './own-idmap.ts'
import { findContainer } from './find-container.ts'
import type { Parts } from './parts.ts'
import { placeDirectory, placeFiles, type PlacedFile } from './place-files.ts'
import { PROFILE } from './profile.ts'
import { provision } from './provision.ts'
import { accepts, fixedPortHost, otherKey, waitForSshd } from './reachability.ts'
import { readTemplate } from './templates.ts'
import { blame, isNodeSilent, tellAdmin } from './translate.ts'

const PLACE_TIMEOUT_MS = 5000
const START_TIMEOUT_MS = 120_000

/**
 * Brings the member's container to where its owner can log in: pinned address and devices, host keys and keys while it is
 * stopped, LXD's start, the first set-up, and an answer of its own sshd through the fixed port.
 * @returns whether there was nothing to do
 * @throws UserError `user-disabled`, `not-registered`, `start-failed`, `port-taken`, `provisioning-failed`, `unreachable`, `node-unavailable`, …
 */
export async function startContainer(
  parts: Parts,
  user: User,
  node: NodeConfig,
  facts: NodeFacts,
  report: Report
): Promise<boolean> {
  const { records } = parts
  // Whoever asked may have been shut out since, and what they asked have waited for its turn.
  if (parts.users.byId(user.id)?.state !== 'enabled')
    throw new UserError('user-disabled', undefined, { hint: 'Ask your admin.' })
  const lxd = parts.lxdFor(node)
  const startFailed = blame(node, 'start-failed', tellAdmin(node))
  const instance = await findContainer(lxd, node, user)
  if (!instance) {
    throw new UserError('not-registered', `The container of ${user.name} is gone from ${node.name}.`, {
      hint: `Make a new one with: ssh register@${node.name}-manage ${user.name}`
    })
  }
  const before = records.need(user, node.name)
  const { ipv4 } = records.claim(user, node.name, before.template, facts.bridge)
  const forwarding = chooseForwarding(node, facts.server)
  const isRunning = instance.status_code === STATUS.running
  const isSetUp = before.provisionedAtMs !== undefined && (isRunning || forwardingOf(instance.devices) === forwarding)
  if (isRunning && isSetUp) return true
  const hostKeys = parts.hostKeys.of(user, node.name)
  const id = `${user.id}@${node.name}`
  if (!isRunning) {
    report('preparing')
    const planned = planDevices(node, user, ipv4, forwarding, parts.forwards.list(user, node.name))
    await putInstanceRight(lxd, user, instance, planned).catch(startFailed)
    if (node.idmap === 'isolated' && !instance.config['security.idmap.base']) {
      await assignOwnIdmap(lxd, user.name).catch(startFailed)
    }
    // Through LXD's file interface, a running start would take half again as long: only where there is something to mend.
    if (before.provisionedAtMs === undefined || before.keysFault !== undefined || parts.ailing.has(id)) {
      await placeWhileStopped(parts, lxd, node, user, hostKeyFiles(hostKeys))
    }
    records.setShouldRun(user, node.name, true)
    report('starting')
    await setInstanceState(lxd, user.name, 'start', { timeoutMs: START_TIMEOUT_MS }).catch((error: unknown) =>
      explainStart(error, lxd, node, user)
    )
  }
  parts.ailing.add(id)
  if (!isSetUp) {
    await provision(lxd, user, node, forwarding, report)
    records.setProvisioned(user, node.name)
  }
  report('waiting for its SSH server')
  const [answers] = await Promise.all([
    waitForSshd(lxd, node, user, hostKeys, parts.probeHostKey).catch(startFailed),
    // The list may have changed while the container was stopped, or just now. A needless program at this time delays sshd.
    parts.delivered.get(id) === authorizedKeys(user, parts.keys).content ? undefined : pushKeys(parts, user, node)
  ])
  if (answers === 'other-key') {
    records.setKeysFault(user, node.name, 'Its SSH server shows other host keys than those known of it.')
    throw otherKey(node, user)
  }
  parts.ailing.delete(id)
  return false
}

/** The instance's own devices and profile as they must be; what else it has of its own stays. */
async function putInstanceRight(
  lxd: LxdClient,
  user: User,
  instance: Instance & { etag: string },
  planned: Instance['devices']
): Promise<void> {
  const devices = { ...withoutForwards(instance.devices), ...planned }
  const profiles = [PROFILE]
  if (isDeepStrictEqual(devices, instance.devices) && isDeepStrictEqual(profiles, instance.profiles)) return
  const { architecture, config, ephemeral, description } = instance
  await updateInstance(
    lxd,
    user.name,
    { architecture, config, ephemeral, description, profiles, devices },
    instance.etag
  )
}

/** Host keys, the list of keys and what cloud-init is told; what stands in the way is shown by `status`. */
async function placeWhileStopped(
  { keys, records, delivered }: Parts,
  lxd: LxdClient,
  node: NodeConfig,
  user: User,
  hostKeyFiles: readonly PlacedFile[]
): Promise<void> {
  const options = { signal: AbortSignal.timeout(PLACE_TIMEOUT_MS) }
  const list = authorizedKeys(user, keys)
  const files = [...hostKeyFiles, list]
  try {
    await placeDirectory(lxd, user.name, KEYS_DIRECTORY, options)
    if ((await statFile(lxd, user.name, '/etc/cloud/cloud.cfg.d', options))?.type === 'directory') {
      const content = readTemplate('cloud-init.cfg').replace('USER', user.name)
      files.push({ path: '/etc/cloud/cloud.cfg.d/99-berth.cfg', content, mode: 0o644 })
    }
    await placeFiles(lxd, user.name, files, options)
    records.setKeysFault(user, node.name, undefined)
    delivered.set(`${user.id}@${node.name}`, list.content)
  } catch (error) {
    if (isNodeSilent(error) && error.fault !== 'timed-out') throw error
    if (!(error instanceof LxdError) && !options.signal.aborted) throw error
    records.setKeysFault(user, node.name, 'Something stands where berth writes its files below /etc.')
  }
}

async function explainStart(error: unknown, lxd: LxdClient, node: NodeConfig, user: User): Promise<void> {
  const startFailed = blame(node, 'start-failed', tellAdmin(node))
  if (!(error instanceof LxdError) || isNodeSilent(error)) return startFailed(error)
  const { status_code } = await getInstanceState(lxd, user.name).catch(startFailed)
  // LXD itself, back after a reboot of the node, may have been quicker.
  if (status_code === STATUS.running) return
  if (await accepts(fixedPortHost(node), user.fixedPort)) {
    throw new UserError('port-taken', `Something else on ${node.name} listens on port ${user.fixedPort}.`, {
      hint: 'Please tell your admin: the fixed ports must be left to berth.',
      cause: error
    })
  }
  return startFailed(error)
}
