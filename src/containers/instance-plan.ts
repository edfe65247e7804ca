import { isIPv4 } from 'node:net'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { DeviceMap } from '../lxd/answer.ts'
import type { ServerInfo } from '../lxd/server.ts'
import type { PortForward } from './port-forwards.ts'
import { planNic } from './profile.ts'

export type Forwarding = 'nat' | 'proxy'

/** `auto`: nat where LXD's firewall driver removes its rules again (nftables) and the address to listen on is one IPv4 address. */
export function chooseForwarding(node: NodeConfig, server: ServerInfo): Forwarding {
  if (node.forwarding !== 'auto') return node.forwarding
  const isConcrete = isIPv4(node.listenAddress) && node.listenAddress !== '0.0.0.0'
  return isConcrete && server.firewall === 'nftables' ? 'nat' : 'proxy'
}

export function forwardingOf(devices: DeviceMap): Forwarding | undefined {
  return devices['ssh'] && (devices['ssh']['nat'] === 'true' ? 'nat' : 'proxy')
}

/** What one container has of its own: its pinned address, and unless its owner is disabled the fixed port and the extra ones. */
export function planDevices(
  node: NodeConfig,
  user: User,
  ipv4: string,
  forwarding: Forwarding,
  forwards: readonly PortForward[]
): DeviceMap {
  const eth0 = planNic(node, ipv4)
  if (user.state === 'disabled') return { eth0 }
  const ssh = planProxy(node, ipv4, forwarding, { containerPort: 22, nodePort: user.fixedPort })
  return Object.assign({ eth0, ssh }, ...forwards.map(forward => planForward(node, ipv4, forwarding, forward)))
}

/** The device of one extra port. */
export const planForward = (
  node: NodeConfig,
  ipv4: string,
  forwarding: Forwarding,
  forward: PortForward
): DeviceMap => ({ [portDevice(forward)]: planProxy(node, ipv4, forwarding, forward) })

export const portDevice = ({ containerPort }: PortForward): string => `port-${containerPort}`

/** The devices that lead into a container from outside, all of berth's making: the fixed port and the extra ones. */
export const withoutForwards = (devices: DeviceMap): DeviceMap =>
  Object.fromEntries(Object.entries(devices).filter(([name]) => name !== 'ssh' && !/^port-\d+$/.test(name)))

/** LXD's proxy device (reference/devices_proxy): with nat a rule of the firewall, else a program that LXD runs. */
function planProxy(node: NodeConfig, ipv4: string, forwarding: Forwarding, { containerPort, nodePort }: PortForward) {
  const host = node.listenAddress.includes(':') ? `[${node.listenAddress}]` : node.listenAddress
  const listen = `tcp:${host}:${nodePort}`
  return forwarding === 'nat'
    ? { type: 'proxy', nat: 'true', listen, connect: `tcp:${ipv4}:${containerPort}` }
    : { type: 'proxy', listen, connect: `tcp:127.0.0.1:${containerPort}` }
}
