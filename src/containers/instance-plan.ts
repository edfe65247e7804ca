import { isIPv4 } from 'node:net'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { DeviceMap } from '../lxd/answer.ts'
import type { ServerInfo } from '../lxd/server.ts'
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

/** What one container has of its own: its pinned address, and the fixed port unless its owner is disabled. */
export function planDevices(node: NodeConfig, user: User, ipv4: string, forwarding: Forwarding): DeviceMap {
  const eth0 = planNic(node, ipv4)
  if (user.state === 'disabled') return { eth0 }
  const host = node.listenAddress.includes(':') ? `[${node.listenAddress}]` : node.listenAddress
  const listen = `tcp:${host}:${user.fixedPort}`
  return {
    eth0,
    ssh:
      forwarding === 'nat'
        ? { type: 'proxy', nat: 'true', listen, connect: `tcp:${ipv4}:22` }
        : { type: 'proxy', listen, connect: 'tcp:127.0.0.1:22' }
  }
}
