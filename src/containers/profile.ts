import type { NodeConfig } from '../config.ts'
import type { ConfigMap, DeviceMap } from '../lxd/answer.ts'
import type { GpuCard } from '../lxd/resources.ts'

export const PROFILE = 'berth'

/** What `auto` takes for a GPU: NVIDIA, AMD, Intel. A server's management controller is a graphics card too (ASPEED, Matrox). */
const GPU_VENDORS = new Set(['10de', '1002', '8086'])

export interface ProfilePlan {
  readonly description: string
  readonly config: ConfigMap
  readonly devices: DeviceMap
}

/** What every container of a node has, so that one change reaches all: root disk, NIC, GPUs, mounts, limits. */
export function planProfile(node: NodeConfig, cards: readonly GpuCard[]): ProfilePlan {
  const { limits } = node
  return {
    description: 'Made by berth from berth.yaml, and put right when changed by hand',
    config: {
      ...(limits.cpu !== 'unlimited' && { 'limits.cpu': String(limits.cpu) }),
      ...(limits.memory !== 'unlimited' && { 'limits.memory': `${limits.memory}B` }),
      ...(limits.processes !== 'unlimited' && { 'limits.processes': String(limits.processes) }),
      ...(node.idmap === 'isolated' && { 'security.idmap.isolated': 'true' }),
      ...(node.nesting && { 'security.nesting': 'true' })
    },
    devices: {
      root: {
        type: 'disk',
        path: '/',
        pool: node.storagePool,
        ...(limits.disk !== 'unlimited' && { size: `${limits.disk}B` })
      },
      eth0: planNic(node),
      ...planGpus(node, cards),
      ...Object.fromEntries(
        node.mounts.map(({ source, path }, index) => [`mount${index}`, { type: 'disk', source, path }])
      )
    }
  }
}

/** The NIC, which can neither pretend to be another one nor reach its neighbours; `ipv4` pins its address. The bridge has no IPv6,
 *  so its filter drops all of it. */
export function planNic(node: NodeConfig, ipv4?: string): ConfigMap {
  return {
    type: 'nic',
    name: 'eth0',
    network: node.network,
    'security.mac_filtering': 'true',
    'security.ipv4_filtering': 'true',
    'security.ipv6_filtering': 'true',
    'security.port_isolation': 'true',
    ...(ipv4 !== undefined && { 'ipv4.address': ipv4 })
  }
}

/** The cards of the node that its containers get. */
export function chooseGpus(node: Pick<NodeConfig, 'gpus'>, cards: readonly GpuCard[]): GpuCard[] {
  if (node.gpus === 'none') return []
  if (node.gpus === 'all') return [...cards]
  if (node.gpus === 'auto') return cards.filter(card => GPU_VENDORS.has(card.vendorId.toLowerCase()))
  if (!Array.isArray(node.gpus)) return []
  const wanted = new Set(node.gpus.map(normalizePci))
  return cards.filter(card => wanted.has(normalizePci(card.pciAddress)))
}

/** Configured GPUs that the node does not have: a container with such a device would not start, so it is left out and told. */
export function missingGpus(node: NodeConfig, cards: readonly GpuCard[]): string[] {
  if (node.gpus === 'all') return cards.length === 0 ? ['all'] : []
  if (!Array.isArray(node.gpus)) return []
  const present = new Set(cards.map(card => normalizePci(card.pciAddress)))
  return node.gpus.filter(address => !present.has(normalizePci(address)))
}

function planGpus(node: NodeConfig, cards: readonly GpuCard[]): DeviceMap {
  if (typeof node.gpus === 'object' && !Array.isArray(node.gpus)) {
    // Not required: LXD attaches the node when it exists, also when it appears later.
    return Object.fromEntries(
      node.gpus.devices.map((path, index) => [
        `gpu${index}`,
        { type: 'unix-char', source: path, path, mode: '0666', required: 'false' }
      ])
    )
  }
  return Object.fromEntries(
    chooseGpus(node, cards).map(({ pciAddress }, index) => [
      `gpu${index}`,
      { type: 'gpu', gputype: 'physical', pci: pciAddress, mode: '0666' }
    ])
  )
}

/** `65:00.0` and `00000000:65:00.0` name the card `0000:65:00.0`. */
function normalizePci(address: string): string {
  const parts = address.toLowerCase().split(':')
  const domain = parts.length === 3 ? Number.parseInt(parts[0] as string, 16) : 0
  return [domain.toString(16).padStart(4, '0'), ...parts.slice(-2)].join(':')
}
