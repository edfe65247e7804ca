import { existsSync, readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { readHostAddresses } from '../containers/node-setup.ts'
import { UserError } from '../errors.ts'
import { LxdClient } from '../lxd/client.ts'
import { type Image, listImages } from '../lxd/images.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { type Network, networks } from '../lxd/networks.ts'
import { getResources, type Resources } from '../lxd/resources.ts'
import { getServer, type ServerInfo } from '../lxd/server.ts'
import { getPoolUsage, listPools, type StoragePool } from '../lxd/storage.ts'

/** Where the packages of Debian and Ubuntu and the snap put their sockets. */
const SOCKETS = [
  '/var/snap/lxd/common/lxd/unix.socket',
  '/var/lib/lxd/unix.socket',
  '/var/lib/incus/unix.socket',
  '/run/incus/unix.socket'
]

/** What `berth init` fits berth.yaml to. */
export interface Survey {
  readonly socket: string
  readonly server: ServerInfo
  readonly pools: readonly (StoragePool & { totalBytes: number })[]
  readonly networks: readonly Network[]
  readonly images: readonly Image[]
  readonly resources: Resources
  /** Addresses that members could reach the node at, the likeliest first. */
  readonly addresses: readonly string[]
}

/**
 * Looks at this machine and its LXD or Incus.
 * @param socket where it is, when not at a usual place
 * @throws UserError `node-unavailable` when there is none that answers
 */
export async function surveyMachine(socket: string | undefined): Promise<Survey> {
  const candidates = socket === undefined ? SOCKETS.filter(path => existsSync(path)) : [socket]
  const refusals: string[] = []
  for (const path of candidates) {
    const lxd = new LxdClient({ url: `unix://${path}`, project: 'default' })
    try {
      return await surveyServer(path, lxd)
    } catch (error) {
      if (!(error instanceof LxdError)) throw error
      refusals.push(error.message)
    } finally {
      await lxd.close()
    }
  }
  throw new UserError('node-unavailable', refusals.join('; ') || 'There is no LXD or Incus on this machine.', {
    hint: 'Install one: apt-get install lxd && lxd init --minimal, or: apt-get install incus && incus admin init --minimal. If its socket is elsewhere: berth init --lxd SOCKET'
  })
}

async function surveyServer(socket: string, lxd: LxdClient): Promise<Survey> {
  const server = await getServer(lxd)
  const [pools, allNetworks, images, resources, own] = await Promise.all([
    listPools(lxd),
    networks.list(lxd),
    listImages(lxd),
    getResources(lxd),
    readHostAddresses(lxd)
  ])
  const sized = pools.map(async pool => ({ ...pool, totalBytes: (await getPoolUsage(lxd, pool.name)).totalBytes }))
  const bridges = allNetworks
    .filter(({ managed }) => managed)
    .map(({ config }) => config['ipv4.address']?.split('/')[0])
  const addresses = own.filter(
    address => /^\d/.test(address) && !/^(127|169\.254)\./.test(address) && !bridges.includes(address)
  )
  const preferred = addressOfDefaultRoute()
  return {
    socket,
    server,
    pools: await Promise.all(sized),
    networks: allNetworks,
    images,
    resources,
    addresses: addresses.toSorted((one, other) => Number(other === preferred) - Number(one === preferred))
  }
}

/** The IPv4 address of the interface that leads outside: /proc/net/route, proc_pid_net(5). */
function addressOfDefaultRoute(): string | undefined {
  const rows = readFileSync('/proc/net/route', 'utf8').split('\n').slice(1)
  const [name] = rows.map(row => row.split('\t')).find(([, destination]) => destination === '00000000') ?? []
  if (name === undefined) return undefined
  return networkInterfaces()[name]?.find(({ family }) => family === 'IPv4')?.address
}
