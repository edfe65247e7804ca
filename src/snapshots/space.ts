import { statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { formatBytes } from '../command/units.ts'
import type { NodeConfig } from '../config.ts'
import { UserError } from '../errors.ts'
import type { LxdClient } from '../lxd/client.ts'
import type { ServerInfo } from '../lxd/server.ts'
import { findPool, getPoolUsage } from '../lxd/storage.ts'

/** What a node has for an archive on its way. */
export interface NodeSpace {
  /** A copy of a container costs nothing there. */
  readonly copiesOnWrite: boolean
  readonly poolFreeBytes: number
  /** Where LXD makes the whole archive before it sends it; undefined where that cannot be seen from here. */
  readonly spoolFreeBytes: number | undefined
}

/** For file systems' own needs, whatever is written. */
export const SPARE_BYTES = 32 * 2 ** 20
const COPIES_ON_WRITE: ReadonlySet<string> = new Set(['btrfs', 'zfs', 'ceph'])

/** GET /1.0/storage-pools/POOL and its resources; the server's `storage.backups_volume`. */
export async function readNodeSpace(lxd: LxdClient, node: NodeConfig, server: ServerInfo): Promise<NodeSpace> {
  const [pool, usage] = await Promise.all([findPool(lxd, node.storagePool), getPoolUsage(lxd, node.storagePool)])
  const isThin = pool?.driver === 'lvm' && pool.config['lvm.use_thinpool'] !== 'false'
  return {
    copiesOnWrite: isThin || COPIES_ON_WRITE.has(pool?.driver ?? ''),
    poolFreeBytes: usage.totalBytes - usage.usedBytes,
    spoolFreeBytes: await readSpool(lxd, node, server)
  }
}

async function readSpool(lxd: LxdClient, node: NodeConfig, { config }: ServerInfo): Promise<number | undefined> {
  const [pool] = (config['storage.backups_volume'] ?? '').split('/')
  if (pool) {
    const { totalBytes, usedBytes } = await getPoolUsage(lxd, pool)
    return totalBytes - usedBytes
  }
  if (!node.lxd.startsWith('unix:')) return undefined
  // Beside its socket, in LXD's own directory.
  const directory = dirname(decodeURIComponent(new URL(node.lxd).pathname))
  const { bavail, bsize } = await statfs(directory)
  return bavail * bsize
}

interface Need {
  /** Undefined where nothing tells: then only what is certainly too little is refused. */
  readonly archiveBytes: number | undefined
  readonly usedBytes: number | undefined
  readonly freeBytes: number
  readonly directory: string
}

/** @throws UserError `no-space` naming the place, what it has and what is needed */
export function refuseWithoutSpace(node: NodeConfig, space: NodeSpace, need: Need): void {
  const archive = need.archiveBytes ?? 0
  const places: [string, number, number | undefined][] = [
    [need.directory, archive, need.freeBytes],
    [`LXD's own directory on ${node.name}`, archive, space.spoolFreeBytes],
    [
      `The pool ${node.storagePool} on ${node.name}`,
      space.copiesOnWrite ? 0 : (need.usedBytes ?? archive),
      space.poolFreeBytes
    ]
  ]
  for (const [place, wantedBytes, freeBytes] of places) {
    if (freeBytes === undefined || freeBytes >= wantedBytes + SPARE_BYTES) continue
    throw new UserError(
      'no-space',
      `${place} has ${formatBytes(freeBytes)} free, and about ${formatBytes(wantedBytes + SPARE_BYTES)} is needed.`,
      { hint: 'Please tell your admin.' }
    )
  }
}
