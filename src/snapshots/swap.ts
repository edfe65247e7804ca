import { z } from 'zod'
import type { NodeConfig } from '../config.ts'
import { chooseForwarding, planDevices } from '../containers/instance-plan.ts'
import type { NodeFacts } from '../containers/node-setup.ts'
import type { Parts } from '../containers/parts.ts'
import { isNodeSilent } from '../containers/translate.ts'
import type { User } from '../directory/users.ts'
import { absentIfNotFound, type LxdClient } from '../lxd/client.ts'
import {
  deleteInstance,
  findInstance,
  getInstance,
  listInstances,
  renameInstance,
  updateInstance,
  type Instance
} from '../lxd/instances.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { awaitOperationsOn } from '../lxd/operations.ts'
import type { Report } from '../operations/operations.ts'
import { parseTemporaryName } from './temporary-names.ts'

/** A replacement of a member's container, as the journal holds it. */
export const swapSchema = z.strictObject({
  /** The name of what is to become the container. */
  incoming: z.string(),
  /** Was it made for this? Then nobody misses it when it does not become the container. */
  made: z.boolean(),
  /** The name the present container gets; undefined when there is none. */
  outgoing: z.string().optional(),
  template: z.string(),
  /** The present container's template. */
  replacedTemplate: z.string(),
  replacedAtMs: z.number()
})
export type Swap = z.output<typeof swapSchema>

/** Which of the two has the user's name in the end; `none` when LXD has lost both. */
export type Holder = 'new' | 'old' | 'none'

/**
 * Gives the user's name to the proven new instance and keeps the old one under another, whichever of the steps have been taken
 * already: it looks at what is there, after LXD has ended what it may still be doing. When LXD refuses a step, the old one gets its
 * name back. Safe to repeat, and to be ended anywhere.
 * @throws LxdError when LXD does not answer; Error when there is one instance too many to know what is right
 */
export async function swapIn(
  parts: Parts,
  user: User,
  node: NodeConfig,
  swap: Swap,
  facts: NodeFacts,
  report: Report
): Promise<Holder> {
  const lxd = parts.lxdFor(node)
  report('swapping')
  parts.records.claim(user, node.name, swap.template, facts.bridge)
  const holder = await moveForward(lxd, user, node, swap).catch((error: unknown) => {
    if (!(error instanceof LxdError) || isNodeSilent(error)) throw error
    parts.log.warn({ node: node.name, user: user.name, err: error }, 'LXD refused a swap')
    return moveBack(lxd, user, swap)
  })
  if (holder !== 'new') return holder
  await pin(parts, lxd, user, node, facts)
  const { outgoing, replacedTemplate, replacedAtMs } = swap
  if (outgoing !== undefined) {
    const template = replacedTemplate
    parts.kept.add({ userId: user.id, node: node.name, instance: outgoing, template, replacedAtMs })
  }
  parts.kept.forget(node.name, swap.incoming)
  // Host keys, keys and sshd are put right at its first start, as for any new container.
  parts.records.reset(user, node.name, swap.template)
  parts.delivered.delete(`${user.id}@${node.name}`)
  return 'new'
}

/** Deletes an instance that was made for a replacement, after LXD has made what there will be of it. */
export async function discard(lxd: LxdClient, name: string): Promise<void> {
  await awaitOperationsOn(lxd, [name])
  if (await findInstance(lxd, name)) await deleteInstance(lxd, name).catch(absentIfNotFound)
}

/** Discards all that was made for a replacement which did not come about: only one is under way at a time. */
export async function discardNew(lxd: LxdClient, user: User, { incoming, made }: Swap): Promise<void> {
  if (made) await awaitOperationsOn(lxd, [incoming])
  for (const { name } of await listInstances(lxd)) {
    const temporary = parseTemporaryName(name)
    if (temporary?.user === user.name && temporary.purpose === 'New') await discard(lxd, name)
  }
}

async function look(lxd: LxdClient, user: User, { incoming, outgoing }: Swap) {
  await awaitOperationsOn(lxd, [user.name, incoming, ...(outgoing === undefined ? [] : [outgoing])])
  const [present, next, previous] = await Promise.all([
    findInstance(lxd, user.name),
    findInstance(lxd, incoming),
    outgoing === undefined ? undefined : findInstance(lxd, outgoing)
  ])
  return { present, next, previous }
}

async function moveForward(lxd: LxdClient, user: User, node: NodeConfig, swap: Swap): Promise<Holder> {
  const { present, next, previous } = await look(lxd, user, swap)
  if (next) {
    if (present) {
      if (previous || swap.outgoing === undefined) throw tooMany(user, node, swap)
      await strip(lxd, present)
      await renameInstance(lxd, user.name, swap.outgoing)
    }
    await renameInstance(lxd, swap.incoming, user.name)
    return 'new'
  }
  if (present) return previous || swap.outgoing === undefined ? 'new' : 'old'
  return restore(lxd, user, swap, previous)
}

async function moveBack(lxd: LxdClient, user: User, swap: Swap): Promise<Holder> {
  const { present, next, previous } = await look(lxd, user, swap)
  if (present) return next ? 'old' : 'new'
  return restore(lxd, user, swap, previous)
}

async function restore(
  lxd: LxdClient,
  user: User,
  { outgoing }: Swap,
  previous: Instance | undefined
): Promise<Holder> {
  if (!previous || outgoing === undefined) return 'none'
  await renameInstance(lxd, outgoing, user.name)
  return 'old'
}

/** LXD refuses to start a container while another one, even a stopped one, has its address. */
async function strip(lxd: LxdClient, instance: Instance & { etag: string }): Promise<void> {
  const devices = Object.fromEntries(
    Object.entries(instance.devices).filter(([, { type }]) => type !== 'nic' && type !== 'proxy')
  )
  const { name, architecture, config, ephemeral, description, profiles, etag } = instance
  await updateInstance(lxd, name, { architecture, config, ephemeral, description, profiles, devices }, etag)
}

/** As the next start does anyway; done here so that the container is whole when nobody starts it for a year. */
async function pin(parts: Parts, lxd: LxdClient, user: User, node: NodeConfig, facts: NodeFacts): Promise<void> {
  try {
    const { etag, architecture, config, ephemeral, description, profiles, ...instance } = await getInstance(
      lxd,
      user.name
    )
    const { ipv4 } = parts.records.need(user, node.name)
    const forwards = parts.forwards.list(user, node.name)
    const devices = {
      ...instance.devices,
      ...planDevices(node, user, ipv4, chooseForwarding(node, facts.server), forwards)
    }
    await updateInstance(lxd, user.name, { architecture, config, ephemeral, description, profiles, devices }, etag)
  } catch (error) {
    if (!(error instanceof LxdError) || isNodeSilent(error)) throw error
    parts.log.warn({ node: node.name, user: user.name, err: error }, 'not pinned: its next start does it')
  }
}

const tooMany = (user: User, node: NodeConfig, { incoming }: Swap): Error =>
  new Error(
    `${node.name} has both ${user.name} and ${incoming}, and berth did not make them both: ` +
      `look at them (lxc list --project ${node.project}), then rename or delete one`
  )
