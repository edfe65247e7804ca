import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { updateInstance } from '../lxd/instances.ts'
import { findContainer } from './find-container.ts'
import { forwardingOf, planForward, portDevice } from './instance-plan.ts'
import type { Parts } from './parts.ts'
import type { PortForward } from './port-forwards.ts'
import { accepts, fixedPortHost } from './reachability.ts'
import { blame, tellAdmin } from './translate.ts'

/** Of ports that LXD gave nobody and that answer all the same: so many are passed over. */
const MAX_FOREIGN = 20

/**
 * Opens an extra port of the member's container, at once if it runs; the record first, so that the next start brings what a crash
 * here has kept back.
 * @returns the forward, and whether it was open before
 * @throws UserError `not-registered`, `not-allowed`, `ports-exhausted`, `cannot-create`, `node-unavailable`
 */
export async function openPort(
  parts: Parts,
  user: User,
  node: NodeConfig,
  containerPort: number
): Promise<PortForward & { already: boolean }> {
  parts.records.need(user, node.name)
  const known = parts.forwards.find(user, node.name, containerPort)
  const forward = known ?? (await claimPort(parts, user, node, containerPort))
  try {
    await setForward(parts, user, node, forward)
  } catch (error) {
    if (!known) parts.forwards.remove(user, node.name, containerPort)
    throw error
  }
  return { ...forward, already: known !== undefined }
}

/** @throws UserError `not-registered`; `usage` when it is not open; `cannot-create`, `node-unavailable` */
export async function closePort(
  parts: Parts,
  user: User,
  node: NodeConfig,
  containerPort: number
): Promise<PortForward> {
  parts.records.need(user, node.name)
  const forward = parts.forwards.find(user, node.name, containerPort)
  if (!forward) {
    throw new UserError('usage', `Port ${containerPort} is not open on ${node.name}.`, {
      hint: `See which are: ssh ${node.name}-manage port`
    })
  }
  await setForward(parts, user, node, { ...forward, closed: true })
  parts.forwards.remove(user, node.name, containerPort)
  return forward
}

/** A program on the node may hold a port of the pool: with nat LXD would take that port away from it. */
async function claimPort({ forwards }: Parts, user: User, node: NodeConfig, containerPort: number) {
  const foreign = new Set<number>()
  for (;;) {
    const forward = forwards.add(user, node.name, containerPort, foreign)
    if (foreign.size >= MAX_FOREIGN || !(await accepts(fixedPortHost(node), forward.nodePort))) return forward
    forwards.remove(user, node.name, containerPort)
    foreign.add(forward.nodePort)
  }
}

async function setForward(
  parts: Parts,
  user: User,
  node: NodeConfig,
  { closed = false, ...forward }: PortForward & { closed?: boolean }
): Promise<void> {
  const lxd = parts.lxdFor(node)
  const instance = await findContainer(lxd, node, user)
  const forwarding = instance && forwardingOf(instance.devices)
  // Without a fixed port there is no way in at all; its next start brings both.
  if (!instance || !forwarding) return
  const { ipv4 } = parts.records.need(user, node.name)
  const { [portDevice(forward)]: _old, ...others } = instance.devices
  const devices = closed ? others : { ...others, ...planForward(node, ipv4, forwarding, forward) }
  const { architecture, config, ephemeral, description, profiles, etag } = instance
  await updateInstance(lxd, user.name, { architecture, config, ephemeral, description, profiles, devices }, etag).catch(
    blame(node, 'cannot-create', tellAdmin(node))
  )
}
