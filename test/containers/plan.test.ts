import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig, type NodeConfig } from '../../src/config.ts'
import { chooseForwarding, planDevices } from '../../src/containers/instance-plan.ts'
import { formatRange, mergeRanges, parseIpv4, parseNetwork, withoutAddress } from '../../src/containers/ipv4.ts'
import { chooseGpus, missingGpus, planProfile } from '../../src/containers/profile.ts'
import { ContainerRecords } from '../../src/containers/records.ts'
import { planWalls } from '../../src/containers/walls.ts'
import { openDatabase } from '../../src/db/open.ts'
import { Users, type User } from '../../src/directory/users.ts'
import type { GpuCard } from '../../src/lxd/resources.ts'
import type { ServerInfo } from '../../src/lxd/server.ts'

function nodeWith(lines = ''): NodeConfig {
  const text = `nodes:\n  gpu1:\n    address: 10.0.0.11\n    managePort: 2222\n    lxd: unix:///x\n${lines}templates: [{ name: t, image: t }]\n`
  return parseConfig(text, 'test').nodes.get('gpu1') as NodeConfig
}

describe('ranges of addresses', () => {
  it('are merged, and parted around one address', () => {
    const merged = mergeRanges(['10.0.0.128/25', '10.0.0.0/25', '10.0.1.0/24', '10.9.0.1'].map(parseNetwork))
    expect(merged.map(formatRange)).toEqual(['10.0.0.0-10.0.1.255', '10.9.0.1'])
    const parted = withoutAddress(withoutAddress(merged, parseIpv4('10.0.0.5')), parseIpv4('10.9.0.1'))
    expect(parted.map(formatRange)).toEqual(['10.0.0.0-10.0.0.4', '10.0.0.6-10.0.1.255'])
  })

  it('cover all of IPv4 and nothing that is not an address', () => {
    expect(formatRange(parseNetwork('0.0.0.0/0'))).toBe('0.0.0.0-255.255.255.255')
    expect(formatRange(parseNetwork('255.255.255.255/32'))).toBe('255.255.255.255')
    expect(() => parseIpv4('10.0.0.256')).toThrow(RangeError)
    expect(() => parseIpv4('10.0.0')).toThrow(RangeError)
  })
})

describe('the walls', () => {
  const plan = {
    bridge: '10.20.30.1/24',
    hostAddresses: ['10.0.0.11', '127.0.0.1', 'fe80::1', '::1'],
    manageAddresses: ['10.0.0.11'],
    managePorts: [2222],
    deny: ['192.168.7.0/24', '2001:db8::/32']
  }

  it('close the node, its networks and all IPv6, and leave one port of the manage endpoint', () => {
    const { egress } = planWalls(plan)
    expect(egress.map(({ action }) => action)).toEqual(['reject', 'reject', 'reject', 'reject', 'reject', 'allow'])
    expect(egress[0]).toMatchObject({ destination: '::/0' })
    const closed = egress[1]?.destination ?? ''
    for (const part of ['10.20.30.0-10.20.30.255', '127.0.0.1', '192.168.7.0-192.168.7.255', '169.254.', '224.0.0.0-'])
      expect(closed).toContain(part)
    expect(closed).not.toContain('10.0.0.11')
    expect(egress[2]).toMatchObject({
      destination: '10.0.0.11',
      protocol: 'tcp',
      destination_port: '1-2221,2223-65535'
    })
    expect(egress.slice(3, 5).map(({ protocol }) => protocol)).toEqual(['udp', 'icmp4'])
  })

  it('keep the manage endpoint open inside a denied network, and need no exception for one that nothing closes', () => {
    const inside = planWalls({ ...plan, manageAddresses: ['192.168.7.9'] }).egress
    expect(inside[1]?.destination).toContain('192.168.7.0-192.168.7.8,192.168.7.10-192.168.7.255')
    expect(inside[1]?.destination).toContain('10.0.0.11')
    expect(planWalls({ ...plan, manageAddresses: ['203.0.113.5'] }).egress).toHaveLength(3)
  })

  it('fit the lowest and highest port', () => {
    const ports = (...managePorts: number[]) => planWalls({ ...plan, managePorts }).egress[2]?.destination_port
    expect(ports(1)).toBe('2-65535')
    expect(ports(65535)).toBe('1-65534')
  })

  it('leave the ports of all nodes of a cluster open, which have one ACL between them', () => {
    const { egress } = planWalls({ ...plan, managePorts: [2224, 2222, 2223, 2226] })
    expect(egress[2]?.destination_port).toBe('1-2221,2225,2227-65535')
  })
})

describe('GPUs', () => {
  const card = (pciAddress: string, vendorId: string) => ({ pciAddress, vendorId }) as GpuCard
  const cards = [card('0000:65:00.0', '10de'), card('0000:02:00.0', '1a03'), card('0000:b3:00.0', '10DE')]

  it('are chosen by make, by address, all or none', () => {
    const chosen = (gpus: string) => chooseGpus(nodeWith(`    gpus: ${gpus}\n`), cards).map(gpu => gpu.pciAddress)
    expect(chosen('auto')).toEqual(['0000:65:00.0', '0000:b3:00.0'])
    expect(chosen('all')).toHaveLength(3)
    expect(chosen('none')).toEqual([])
    expect(chosen('["B3:00.0", "00000000:65:00.0"]')).toEqual(['0000:65:00.0', '0000:b3:00.0'])
  })

  it('that are not there are left out and told', () => {
    const node = nodeWith('    gpus: ["b3:00.0", "c4:00.0"]\n')
    expect(missingGpus(node, cards)).toEqual(['c4:00.0'])
    expect(Object.keys(planProfile(node, cards).devices)).toEqual(['root', 'eth0', 'gpu0'])
    expect(missingGpus(nodeWith('    gpus: all\n'), [])).toEqual(['all'])
    expect(missingGpus(nodeWith(), [])).toEqual([])
  })
})

describe('the profile', () => {
  it('holds limits, mounts and the choice of uids, and never a key that opens the node', () => {
    const { config, devices } = planProfile(
      nodeWith('    mounts: [{ source: /ssd, path: /SSD }]\n    nesting: true\n'),
      []
    )
    expect(config).toEqual({
      'limits.memory': `${32 * 2 ** 30}B`,
      'limits.processes': '4000',
      'security.idmap.isolated': 'true',
      'security.nesting': 'true'
    })
    expect(devices['mount0']).toEqual({ type: 'disk', source: '/ssd', path: '/SSD' })
    expect(devices['root']).toEqual({ type: 'disk', path: '/', pool: 'default', size: `${200 * 2 ** 30}B` })
  })

  it('leaves out what is unlimited or shared', () => {
    const lines =
      '    idmap: shared\n    limits: { memory: unlimited, processes: unlimited, disk: unlimited, cpu: 4 }\n'
    const { config, devices } = planProfile(nodeWith(lines), [])
    expect(config).toEqual({ 'limits.cpu': '4' })
    expect(devices['root']).not.toHaveProperty('size')
  })
})

describe('forwarding', () => {
  const server = (firewall: string) => ({ firewall }) as ServerInfo
  const user = { name: 'alice', fixedPort: 22001, state: 'enabled' } as User

  it.each([
    ['', 'nftables', 'nat'],
    ['', 'xtables', 'proxy'],
    ['    listenAddress: 0.0.0.0\n', 'nftables', 'proxy'],
    ['    listenAddress: 2001:db8::1\n', 'nftables', 'proxy'],
    ['    forwarding: nat\n', 'xtables', 'nat'],
    ['    forwarding: proxy\n', 'nftables', 'proxy']
  ])('%j with %s is %s', (lines, firewall, forwarding) => {
    expect(chooseForwarding(nodeWith(lines), server(firewall))).toBe(forwarding)
  })

  it('listens on the fixed port, and not for a disabled member', () => {
    const node = nodeWith()
    expect(planDevices(node, user, '10.20.30.5', 'nat', [])['ssh']).toEqual({
      type: 'proxy',
      nat: 'true',
      listen: 'tcp:10.0.0.11:22001',
      connect: 'tcp:10.20.30.5:22'
    })
    const six = planDevices(nodeWith('    listenAddress: "2001:db8::1"\n'), user, '10.20.30.5', 'proxy', [])['ssh']
    expect(six).toEqual({ type: 'proxy', listen: 'tcp:[2001:db8::1]:22001', connect: 'tcp:127.0.0.1:22' })
    const extra = [{ containerPort: 8888, nodePort: 11000 }]
    expect(planDevices(node, user, '10.20.30.5', 'nat', extra)['port-8888']).toEqual({
      type: 'proxy',
      nat: 'true',
      listen: 'tcp:10.0.0.11:11000',
      connect: 'tcp:10.20.30.5:8888'
    })
    const disabled = planDevices(node, { ...user, state: 'disabled' }, '10.20.30.5', 'nat', extra)
    expect(Object.keys(disabled)).toEqual(['eth0'])
  })
})

describe('addresses', () => {
  it('are given once each, kept, moved with the bridge, and end with the network', () => {
    const directory = mkdtempSync(join(tmpdir(), 'berth-plan-'))
    const database = openDatabase(join(directory, 'berth.sqlite'))
    const users = new Users(database, { from: 22000, to: 22009, exclude: [] })
    const records = new ContainerRecords(database)
    const [one, two, three] = ['one', 'two', 'three'].map(name => users.add(name)) as [User, User, User]
    expect(records.claim(one, 'gpu1', 't', '10.1.0.1/29').ipv4).toBe('10.1.0.2')
    expect(records.claim(two, 'gpu1', 't', '10.1.0.1/29').ipv4).toBe('10.1.0.3')
    expect(records.claim(one, 'gpu1', 't', '10.1.0.1/29').ipv4).toBe('10.1.0.2')
    expect(records.claim(one, 'gpu2', 't', '10.1.0.1/29').ipv4).toBe('10.1.0.2')
    expect(records.claim(one, 'gpu1', 't', '10.2.0.1/30').ipv4).toBe('10.2.0.2')
    expect(() => records.claim(three, 'gpu1', 't', '10.2.0.1/30')).toThrow(
      expect.objectContaining({ reason: 'addresses-exhausted' }) as Error
    )
    records.forget(two, 'gpu1')
    expect(records.claim(three, 'gpu1', 't', '10.1.0.1/29').ipv4).toBe('10.1.0.2')
    database.close()
    rmSync(directory, { recursive: true })
  })
})
