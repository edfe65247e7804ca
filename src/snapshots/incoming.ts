import { isDeepStrictEqual } from 'node:util'
import type { NodeConfig } from '../config.ts'
import type { NodeFacts } from '../containers/node-setup.ts'
import { assignOwnIdmap, NOT_ISOLATED } from '../containers/own-idmap.ts'
import { planProfile, PROFILE } from '../containers/profile.ts'
import type { LxdClient } from '../lxd/client.ts'
import { dropTemplates, getInstance, hasSnapshots, STATUS, updateInstance, type Instance } from '../lxd/instances.ts'

/** What LXD itself writes down of an instance: where it came from, and whose ids its files have on the disk. */
const LXDS_OWN =
  /^(image\.|volatile\.(base_image|uuid(\.generation)?|cloud-init\.instance-id|apply_template|idmap\.|last_state\.idmap))/

/**
 * Makes a stopped instance berth's, whatever it came with: berth's profile and nothing of its own but uids no other has. It gets
 * neither an address nor the fixed port yet: those are still the present container's.
 * @throws LxdError
 */
export async function makeOurs(lxd: LxdClient, node: NodeConfig, name: string, description: string): Promise<void> {
  const { architecture, config, etag } = await getInstance(lxd, name)
  const kept = Object.fromEntries(Object.entries(config).filter(([key]) => LXDS_OWN.test(key)))
  const isIsolated = node.idmap === 'isolated'
  const wanted = { architecture, devices: {}, ephemeral: false, profiles: [PROFILE], description }
  await updateInstance(lxd, name, { ...wanted, config: { ...kept, ...(isIsolated && NOT_ISOLATED) } }, etag)
  if (isIsolated) await assignOwnIdmap(lxd, name)
}

/**
 * As makeOurs, for what came out of an archive. The files that LXD would write into it at a start are named by the archive, so it is
 * told to write none; all of them are in the archive's root file system already.
 */
export async function makeImportedOurs(
  lxd: LxdClient,
  node: NodeConfig,
  name: string,
  description: string
): Promise<void> {
  await makeOurs(lxd, node, name, description)
  await dropTemplates(lxd, name)
}

/** LXD's own, too, but of the place where the instance stands: made anew there. */
const OF_THE_PLACE = /^volatile\.eth0\./

/** Compares a new instance, as LXD expands it, with what berth gives a container. @returns what is wrong with it */
export async function findForeign(
  lxd: LxdClient,
  node: NodeConfig,
  { cards }: NodeFacts,
  name: string
): Promise<string | undefined> {
  const instance = await getInstance(lxd, name)
  const profile = planProfile(node, cards)
  if (instance.type !== 'container' || instance.ephemeral) return 'it is no lasting container'
  if (instance.status_code !== STATUS.stopped) return `it is ${instance.status}`
  if (!isDeepStrictEqual(instance.profiles, [PROFILE])) return `its profiles are ${instance.profiles.join(', ')}`
  if (await hasSnapshots(lxd, name)) return 'it has snapshots of its own'
  const device = firstDifference(instance.expanded_devices, profile.devices)
  if (device !== undefined) return `its device ${device} is not berth's`
  const setting = firstDifference(settingsOf(instance, node), profile.config)
  return setting === undefined ? undefined : `its setting ${setting} is not berth's`
}

function settingsOf({ expanded_config }: Instance, node: NodeConfig): Record<string, string> {
  const isOwnIds = (key: string) => key === 'security.idmap.base' && node.idmap === 'isolated'
  return Object.fromEntries(
    Object.entries(expanded_config).filter(([key]) => !LXDS_OWN.test(key) && !OF_THE_PLACE.test(key) && !isOwnIds(key))
  )
}

function firstDifference(one: Readonly<Record<string, unknown>>, other: Readonly<Record<string, unknown>>) {
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].find(
    key => !isDeepStrictEqual(one[key], other[key])
  )
}
