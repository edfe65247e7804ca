import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { LxdClient } from '../lxd/client.ts'
import { deleteInstance, listInstances, updateInstance, type Instance } from '../lxd/instances.ts'
import type { Report } from '../operations/operations.ts'
import { parseTemporaryName } from '../snapshots/temporary-names.ts'
import { chooseForwarding, planDevices, withoutForwards } from './instance-plan.ts'
import type { NodeFacts } from './node-setup.ts'
import { findContainer } from './find-container.ts'
import type { Parts } from './parts.ts'
import { stopContainer } from './stop.ts'
import { blame, tellAdmin } from './translate.ts'

/** Closes the fixed port and the extra ones of a member's container, running or not. */
export async function closeFixedPort(parts: Parts, user: User, node: NodeConfig): Promise<void> {
  const lxd = parts.lxdFor(node)
  const instance = await findContainer(lxd, node, user)
  if (!instance?.devices['ssh']) return
  await setDevices(lxd, user, instance, withoutForwards(instance.devices)).catch(
    blame(node, 'stop-failed', tellAdmin(node))
  )
}

/** Opens them again, where the container was left running; a stopped one gets it at its next start. */
export async function openFixedPort(parts: Parts, user: User, node: NodeConfig, facts: NodeFacts): Promise<void> {
  const lxd = parts.lxdFor(node)
  const record = parts.records.need(user, node.name)
  const instance = await findContainer(lxd, node, user)
  if (!instance || instance.devices['ssh']) return
  const forwards = parts.forwards.list(user, node.name)
  const planned = planDevices(node, user, record.ipv4, chooseForwarding(node, facts.server), forwards)
  await setDevices(lxd, user, instance, { ...instance.devices, ...planned }).catch(
    blame(node, 'start-failed', tellAdmin(node))
  )
}

/** Deletes the container and all that is in it, replaced ones that are kept too, then forgets it. */
export async function removeContainer(parts: Parts, user: User, node: NodeConfig, report: Report): Promise<void> {
  await stopContainer(parts, user, node, 0, report)
  report('deleting')
  const lxd = parts.lxdFor(node)
  const failed = blame(node, 'stop-failed', tellAdmin(node))
  if (await findContainer(lxd, node, user)) await deleteInstance(lxd, user.name).catch(failed)
  parts.forwards.removeAll(user, node.name)
  const beside = (await listInstances(lxd).catch(failed)).filter(
    ({ name }) => parseTemporaryName(name)?.user === user.name
  )
  for (const { name } of beside) {
    await deleteInstance(lxd, name).catch(failed)
    parts.kept.forget(node.name, name)
  }
  parts.records.forget(user, node.name)
}

async function setDevices(
  lxd: LxdClient,
  user: User,
  instance: Instance & { etag: string },
  devices: Instance['devices']
): Promise<void> {
  const { architecture, config, ephemeral, description, profiles } = instance
  await updateInstance(
    lxd,
    user.name,
    { architecture, config, ephemeral, description, profiles, devices },
    instance.etag
  )
}
