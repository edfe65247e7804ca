import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ImageFiles } from './images.ts'
import { findProcess, openPlace, startDaemon, type OpenPlace, type Place } from './place.ts'
import { connectRest, importImage, waitForServer } from './rest.ts'

export type ServerKind = 'lxd' | 'incus'

/** One running server, LXD or Incus, in namespaces of its own. */
export interface LabServer {
  kind: ServerKind
  /** The server's unix socket; reachable by this path from the whole machine. */
  lxdSocket: string
  /** The daemon's state: LXD_DIR, or what is /var/lib/incus to Incus. */
  lxdDir: string
  pool: string
  /** The machine's address on the link to the server: where clients come from, and "the outside" for containers. */
  hostAddress: string
  /** The server's own address, where forwards listen. */
  nodeAddress: string
  httpsAddress: string
  /** Aliases of the images in the server's default project, by the recipe's name. */
  images: Record<string, string>
  /** Network namespace, as `ip netns` knows it. */
  netns: string
  /** Put before a command line, runs it in the server's network namespace. */
  enter: string[]
  /** Put before a command line, runs it in all of the server's namespaces, where its mounts and processes are seen. */
  enterAll: string[]
  place: OpenPlace
}

const commands = { lxd: ['lxd', '--group', 'root'], incus: ['/usr/libexec/incus/incusd', '--group', 'root'] }
const pool = 'default'

/** Starts a server in a place of its own and makes its pool; `incusTree` is the root file system Incus runs from. */
export async function createServer(
  kind: ServerKind,
  place: Place,
  poolDriver: 'btrfs' | 'dir',
  incusTree?: string
): Promise<LabServer> {
  const lxdDir = join(place.directory, 'state')
  await mkdir(lxdDir, { recursive: true, mode: 0o711 })
  const open = await openPlace(place, incusTree, '/var/lib/incus')
  const server: LabServer = {
    kind,
    lxdSocket: join(lxdDir, 'unix.socket'),
    lxdDir,
    pool,
    hostAddress: place.hostAddress,
    nodeAddress: place.nodeAddress,
    httpsAddress: `${place.nodeAddress}:8443`,
    images: {},
    netns: place.name,
    enter: ['ip', 'netns', 'exec', place.name],
    enterAll: open.enter,
    place: open
  }
  await startServer(server)
  const rest = connectRest(server.lxdSocket)
  try {
    await rest.call('PATCH', '/1.0', { config: { 'core.https_address': server.httpsAddress } })
    const config = poolDriver === 'btrfs' ? { size: '12GiB' } : {}
    await rest.call('POST', '/1.0/storage-pools', { name: pool, driver: poolDriver, config })
    await rest.call('PATCH', '/1.0/profiles/default', { devices: { root: { type: 'disk', path: '/', pool } } })
  } finally {
    await rest.close()
  }
  return server
}

/** Starts the daemon of a server whose place is open; returns when it answers. Containers that run are taken over as they are. */
export async function startServer({ kind, place, lxdDir, lxdSocket }: LabServer): Promise<void> {
  await startDaemon(place, commands[kind], kind === 'lxd' ? { LXD_DIR: lxdDir } : {})
  const rest = connectRest(lxdSocket)
  try {
    await waitForServer(rest)
  } finally {
    await rest.close()
  }
}

/** Ends the daemon alone, at once or as systemd would; its containers run on. */
export async function stopServer(server: LabServer, signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
  for (;;) {
    const pid = await findDaemon(server)
    if (pid === undefined) return
    process.kill(pid, signal)
    await sleep(100)
  }
}

/** The daemon's process as the machine numbers it, if it runs. */
export async function findDaemon({ kind, place }: LabServer): Promise<number | undefined> {
  return await findProcess(place.name, commands[kind])
}

/** Imports the images the server lacks. */
export async function importImages(server: LabServer, images: Map<string, ImageFiles>): Promise<void> {
  const rest = connectRest(server.lxdSocket)
  try {
    for (const [name, { metadataPath, rootfsPath }] of images) {
      if (name in server.images) continue
      await importImage(rest, name, metadataPath, rootfsPath)
      server.images[name] = name
    }
  } finally {
    await rest.close()
  }
}
