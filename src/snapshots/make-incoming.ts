import type { NodeConfig, Template } from '../config.ts'
import { formatBytes } from '../command/units.ts'
import { nameTaken, needImage, readReservedNames } from '../containers/create.ts'
import type { NodeFacts } from '../containers/node-setup.ts'
import type { Parts } from '../containers/parts.ts'
import { PROFILE } from '../containers/profile.ts'
import { blame } from '../containers/translate.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { LxdClient } from '../lxd/client.ts'
import { createInstance, deleteInstance, type NewInstance } from '../lxd/instances.ts'
import type { Report } from '../operations/operations.ts'
import type { ArchiveDirectory } from './archive-directory.ts'
import { findForeign, makeImportedOurs, makeOurs } from './incoming.ts'
import { refuseArchive } from './archive-refusal.ts'
import type { SnapshotRecord } from './snapshot-records.ts'
import { temporaryName } from './temporary-names.ts'
import { readNodeSpace, SPARE_BYTES } from './space.ts'

/** A new instance beside the member's container. */
interface Making {
  readonly name: string
  readonly facts: NodeFacts
  readonly report: Report
}

/** Of the time a recovery takes; LXD unpacks after the last byte. */
const UPLOAD_SHARE = 0.6
/** How much a compressed image grows, with room to spare. */
const UNPACKED_IMAGE = 3

const unchanged = (node: NodeConfig): string =>
  `Your container is as it was. Try again, or tell your admin, who finds the fault with: berth node check ${node.name}`

/** @param reservedNames by image, found out where missing @throws UserError `image-missing`, `bad-user-name`, `cannot-create`, `node-unavailable` */
export async function makeFromTemplate(
  parts: Parts,
  user: User,
  node: NodeConfig,
  template: Template,
  reservedNames: Map<string, ReadonlySet<string>>,
  { name, facts, report }: Making
): Promise<void> {
  const lxd = parts.lxdFor(node)
  const { fingerprint, size } = await needImage(lxd, node, template)
  await needRoom(lxd, node, facts, { poolBytes: size * UNPACKED_IMAGE, spoolBytes: 0 })
  const refused = blame(node, 'cannot-create', unchanged(node))
  report('creating')
  const source = { type: 'image', fingerprint } as const
  const reserved = reservedNames.get(fingerprint) ?? (await probeImage(lxd, user, source).catch(refused))
  reservedNames.set(fingerprint, reserved)
  if (reserved.has(user.name)) throw nameTaken(user)
  const description = `berth: ${user.name}`
  const made = { name, description, source, profiles: [PROFILE], devices: {} }
  await createInstance(lxd, made, { onProgress: report }).catch(refused)
  report('checking the new container')
  await makeOurs(lxd, node, name, description).catch(refused)
  const foreign = await findForeign(lxd, node, facts, name).catch(refused)
  if (foreign === undefined) return
  throw new UserError('cannot-create', `The new container is not as it should be: ${foreign}.`, {
    hint: unchanged(node)
  })
}

/**
 * Reads the names an image reserves from an instance that is only made for it: for ten seconds after a file was read LXD 5.0.2 holds the
 * instance open, and one renamed meanwhile takes no files.
 */
async function probeImage(lxd: LxdClient, user: User, source: NewInstance['source']): Promise<ReadonlySet<string>> {
  const name = temporaryName(user.name, 'New')
  await createInstance(lxd, {
    name,
    description: 'berth looks into its image',
    source,
    profiles: [PROFILE],
    devices: {}
  })
  const reserved = await readReservedNames(lxd, name)
  await deleteInstance(lxd, name)
  return reserved
}

/**
 * Imports a snapshot under a name no user has, inspected while it is uploaded; then makes it berth's, and compares what LXD expands it to.
 * @throws UserError `archive-refused`, `no-space`, `snapshots-unavailable`, `cannot-create`, `node-unavailable`
 */
export async function makeFromArchive(
  parts: Parts,
  archives: ArchiveDirectory,
  user: User,
  node: NodeConfig,
  snapshot: SnapshotRecord,
  { name, facts, report }: Making
): Promise<void> {
  const lxd = parts.lxdFor(node)
  const { sizeBytes, uncompressedBytes } = snapshot
  const room = { poolBytes: uncompressedBytes, spoolBytes: sizeBytes }
  await needRoom(lxd, node, facts, room)
  const refused = blame(node, 'cannot-create', unchanged(node))
  const archive = { user: user.name, name: snapshot.name, claims: { ...snapshot, instanceName: snapshot.instance } }
  const onProgress = (readBytes: number) =>
    report(
      readBytes < sizeBytes ? `bringing the archive to ${node.name}` : 'unpacking it',
      (readBytes / sizeBytes) * UPLOAD_SHARE
    )
  try {
    const isThere = await archives.bring(lxd.endpoint, archive, { name, pool: node.storagePool }, onProgress)
    if (!isThere) throw fileGone(archives, user, snapshot)
  } catch (error) {
    if (error instanceof UserError) throw error
    if ((error as NodeJS.ErrnoException).syscall !== undefined) throw fileGone(archives, user, snapshot, error)
    await needRoom(lxd, node, facts, { poolBytes: 0, spoolBytes: 0 })
    refused(error)
  }
  report('checking the new container')
  await makeImportedOurs(lxd, node, name, `berth: ${user.name}`).catch(refused)
  const foreign = await findForeign(lxd, node, facts, name).catch(refused)
  if (foreign !== undefined) refuseArchive(`What ${node.name} made of it is not a container of berth's: ${foreign}.`)
}

interface Room {
  readonly poolBytes: number
  /** LXD writes an import to its own disk before it looks at it. */
  readonly spoolBytes: number
}

async function needRoom(lxd: LxdClient, node: NodeConfig, { server }: NodeFacts, room: Room): Promise<void> {
  const space = await readNodeSpace(lxd, node, server).catch(blame(node, 'node-unavailable', unchanged(node)))
  const places: [string, number, number | undefined][] = [
    [`The pool ${node.storagePool} on ${node.name}`, room.poolBytes, space.poolFreeBytes],
    [`LXD's own directory on ${node.name}`, room.spoolBytes, space.spoolFreeBytes]
  ]
  for (const [place, wantedBytes, freeBytes] of places) {
    if (freeBytes === undefined || freeBytes >= wantedBytes + SPARE_BYTES) continue
    const found = `${place} has ${formatBytes(freeBytes)} free, and about ${formatBytes(wantedBytes + SPARE_BYTES)} is needed.`
    throw new UserError('no-space', found, { hint: 'Your container is as it was. Please tell your admin.' })
  }
}

function fileGone(archives: ArchiveDirectory, user: User, { name }: SnapshotRecord, cause?: unknown): UserError {
  return new UserError('snapshots-unavailable', `${archives.path}/${user.name}/${name} cannot be read.`, {
    hint: 'Your container is as it was. Please tell your admin, who finds the fault with: berth doctor',
    cause
  })
}
