import { isIPv4 } from 'node:net'
import type { AclRule } from '../lxd/network-acls.ts'
import { contains, formatIpv4, formatRange, mergeRanges, parseIpv4, parseNetwork, withoutAddress } from './ipv4.ts'

export interface AclRules {
  readonly egress: readonly AclRule[]
  readonly ingress: readonly AclRule[]
}

export interface WallsPlan {
  /** The bridge's `ipv4.address`, such as 10.20.30.1/24. */
  readonly bridge: string
  /** Every address of the node itself; IPv6 ones may be among them. */
  readonly hostAddresses: readonly string[]
  /** The manage endpoints: the ports of the closed addresses that stay open. */
  readonly manageAddresses: readonly string[]
  readonly managePorts: readonly number[]
  /** Networks containers may not reach (CIDR). */
  readonly deny: readonly string[]
}

// Multicast and broadcast reach services that listen on the bridge (mDNS, SSDP); link-local leads to a cloud's metadata service.
const NEVER = ['224.0.0.0/4', '255.255.255.255/32', '169.254.0.0/16', '0.0.0.0/8']

/**
 * What a container may reach, as the ACL of its bridge. LXD sorts rules into drop, reject, allow whatever the order written, so
 * nothing can be allowed out of what is rejected: the manage endpoints' addresses are taken out of the closed ranges and closed
 * again around their ports. DNS and DHCP on the node are open before any ACL (LXD's own chains). IPv6 is closed altogether.
 */
export function planWalls({ bridge, hostAddresses, manageAddresses, managePorts, deny }: WallsPlan): AclRules {
  const networks = [bridge, ...hostAddresses, ...deny, ...NEVER].filter(text => isIPv4(text.split('/')[0] ?? ''))
  let closed = mergeRanges(networks.map(parseNetwork))
  const narrowed = [...new Set(manageAddresses.filter(isIPv4).map(parseIpv4))].filter(address =>
    closed.some(range => contains(range, address))
  )
  for (const address of narrowed) closed = withoutAddress(closed, address)
  const reject = (destination: string, rest: Partial<AclRule> = {}): AclRule => ({
    action: 'reject',
    state: 'enabled',
    destination,
    ...rest
  })
  const manage = narrowed.map(formatIpv4).join(',')
  return {
    egress: [
      reject('::/0'),
      reject(closed.map(formatRange).join(',')),
      ...(manage === ''
        ? []
        : [
            reject(manage, { protocol: 'tcp', destination_port: around(managePorts) }),
            reject(manage, { protocol: 'udp' }),
            reject(manage, { protocol: 'icmp4' })
          ]),
      { action: 'allow', state: 'enabled' }
    ],
    ingress: [{ action: 'allow', state: 'enabled' }]
  }
}

/** All other ports, as LXD writes them: around 22 and 80 are `1-21,23-79,81-65535`. */
function around(ports: readonly number[]): string {
  const edges = [0, ...new Set(ports)].sort((one, other) => one - other)
  return edges
    .map((edge, index) => ({ from: edge + 1, to: (edges[index + 1] ?? 65536) - 1 }))
    .filter(({ from, to }) => from <= to)
    .map(({ from, to }) => (from === to ? String(from) : `${from}-${to}`))
    .join(',')
}
