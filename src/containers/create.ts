import { statfs } from 'node:fs/promises'
import type { NodeConfig, Template } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Report } from '../operations/operations.ts'
import type { LxdClient } from '../lxd/client.ts'
import { pullFile } from '../lxd/files.ts'
import { findImage, type Image } from '../lxd/images.ts'
import { createInstance, deleteInstance } from '../lxd/instances.ts'
import { chooseForwarding, planDevices } from './instance-plan.ts'
import type { NodeFacts } from './node-setup.ts'
import { findContainer } from './find-container.ts'
import type { Parts } from './parts.ts'
import { PROFILE } from './profile.ts'
import { blame, tellAdmin } from './translate.ts'

/** @throws UserError `unknown-template` */
export function chooseTemplate(templates: readonly Template[], name: string | undefined): Template {
  const found = name === undefined ? templates[0] : templates.find(template => template.name === name)
  if (found) return found
  throw new UserError('unknown-template', `Nothing is called ${JSON.stringify(name)}.`, {
    hint: `There are: ${templates.map(template => template.name).join(', ')}`
  })
}

/** @throws UserError `image-missing`, `image-unfit`, `cannot-create`, `node-unavailable` */
export async function needImage(lxd: LxdClient, node: NodeConfig, template: Template): Promise<Image> {
  const image = await findImage(lxd, template.image).catch(blame(node, 'cannot-create', tellAdmin(node)))
  if (image) {
    await refuseWithoutCgroup1(node, image)
    return image
  }
  throw new UserError('image-missing', `${template.name} wants the image ${template.image} on ${node.name}.`, {
    hint: `Your admin makes it with: berth template build ${template.name}`
  })
}

/** CGROUP2_SUPER_MAGIC of statfs(2) */
const CGROUP2 = 0x63677270

/**
 * The systemd of Ubuntu 16.04 knows cgroup v1 alone: where there is none its containers freeze as they boot. Of a node by HTTPS
 * nobody says what it has.
 * @throws UserError `image-unfit`
 */
export async function refuseWithoutCgroup1(
  node: Pick<NodeConfig, 'name' | 'lxd'>,
  { properties: { os = '', release = '', version = '' } }: Pick<Image, 'properties'>,
  cgroups = '/sys/fs/cgroup'
): Promise<void> {
  const isOld = /^ubuntu$/i.test(os) && [release, version].some(text => /^(16\.04|xenial)/i.test(text))
  if (!isOld || !node.lxd.startsWith('unix:') || (await statfs(cgroups)).type !== CGROUP2) return
  throw new UserError('image-unfit', `Ubuntu 16.04 needs cgroup v1, and ${node.name} has cgroup v2 alone.`, {
    hint: `Choose another template. Or your admin boots ${node.name} with systemd.unified_cgroup_hierarchy=0.`
  })
}

/**
 * Makes what is missing of a member's container: first the record with its address, then the instance, not started. Ended at any
 * point, the next call goes on from there.
 * @returns whether the instance was made by this call
 * @throws UserError `image-missing`, `image-unfit`, `addresses-exhausted`, `cannot-create`, `bad-user-name`, `node-unavailable`
 */
export async function ensureInstance(
  parts: Parts,
  user: User,
  node: NodeConfig,
  template: Template,
  facts: NodeFacts,
  report: Report
): Promise<boolean> {
  const { records } = parts
  const lxd = parts.lxdFor(node)
  const refused = blame(node, 'cannot-create', tellAdmin(node))
  const existing = await findContainer(lxd, node, user)
  if (existing) {
    records.claim(user, node.name, template.name, facts.bridge)
    return false
  }
  const image = await needImage(lxd, node, template)
  const { ipv4 } = records.claim(user, node.name, template.name, facts.bridge)
  records.reset(user, node.name, template.name)
  report('creating')
  const devices = planDevices(
    node,
    user,
    ipv4,
    chooseForwarding(node, facts.server),
    parts.forwards.list(user, node.name)
  )
  const source = { type: 'image', fingerprint: image.fingerprint } as const
  const made = { name: user.name, description: `berth: ${user.name}`, source, profiles: [PROFILE], devices }
  await createInstance(lxd, made, { onProgress: report }).catch(refused)
  await refuseTakenName(parts, lxd, user, node).catch(refused)
  return true
}

/** The users and groups of an instance made of an image and never started, other than those with id 1000: no member can have such a name. */
export async function readReservedNames(lxd: LxdClient, instance: string): Promise<ReadonlySet<string>> {
  const files = await Promise.all(['/etc/passwd', '/etc/group'].map(path => pullFile(lxd, instance, path)))
  const entries = files
    .flatMap(file => file?.content.toString().split('\n') ?? [])
    .map(line => line.split(':'))
    .filter(([, , id]) => id !== '1000')
  return new Set(entries.map(([name = '']) => name))
}

/** A user of the image's own with the member's name cannot become the member's. */
async function refuseTakenName({ records }: Parts, lxd: LxdClient, user: User, node: NodeConfig): Promise<void> {
  if (!(await readReservedNames(lxd, user.name)).has(user.name)) return
  await deleteInstance(lxd, user.name)
  records.forget(user, node.name)
  throw nameTaken(user)
}

export const nameTaken = (user: User): UserError =>
  new UserError('bad-user-name', `The image has a system user or group ${user.name} of its own.`, {
    hint: 'Your admin can make you a user with another name.'
  })
