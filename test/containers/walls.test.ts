import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { User } from '../../src/directory/users.ts'
import { getInstance, setInstanceState, updateInstance } from '../../src/lxd/instances.ts'
import { networkAcls } from '../../src/lxd/network-acls.ts'
import { networks } from '../../src/lxd/networks.ts'
import { run } from '../rig.ts'
import { itLong, SERVERS } from '../suite.ts'
import { openLabContainers, type LabContainers } from './lab-containers.ts'

const HTTPS = 8443
/** On the machine, behind the node as seen from a container: TEST-NET-2 is denied, TEST-NET-3 is not (RFC 5737). */
const DENIED = '198.51.100.7'
const OUTSIDE = '203.0.113.7'
const [GATEWAY6, OWN6] = ['fd00:77::1', 'fd00:77::2']

describe.each(SERVERS)('what a container can reach, on %s', server => {
  let lab: LabContainers
  let alice: User
  let bob: User
  let gateway: string
  let bobAddress: string

  beforeAll(async () => {
    lab = await openLabContainers({
      server,
      node: ({ hostAddress }) => ({ deny: ['198.51.100.0/24', `${hostAddress}/30`] })
    })
    const { link } = lab.lab.place
    for (const address of [DENIED, OUTSIDE]) await run(['ip', 'address', 'add', `${address}/32`, 'dev', link])
    ;[alice, bob] = [await lab.addUser('alice'), await lab.addUser('bob')]
    await Promise.all([alice, bob].map(user => lab.containers.register(user, lab.node, undefined)))
    const network = await networks.find(lab.lxd.inProject('default'), lab.node.network)
    gateway = (network?.config['ipv4.address'] ?? '').split('/')[0] as string
    bobAddress = (await lab.containers.status(bob, lab.node)).addresses[0] as string
  })
  afterAll(async () => {
    for (const address of [DENIED, OUTSIDE])
      await run(['ip', 'address', 'del', `${address}/32`, 'dev', lab.lab.place.link])
    await lab[Symbol.asyncDispose]()
  })

  /** Can alice's container open a TCP connection there? */
  const reaches = async (host: string, port: number, from: User = alice): Promise<boolean> =>
    (await lab.inside(from, `nc -z -w 2 ${host} ${port}`)).exitCode === 0
  const hostReaches = async (host: string, port: number): Promise<boolean> =>
    (await run([...lab.lab.enter, 'bash', '-c', `timeout 2 bash -c '</dev/tcp/${host}/${port}'`])).code === 0
  const send = (host: string, port: number, text: string) =>
    lab.inside(alice, `for i in 1 2 3; do echo ${text} | nc -u -b -q 0 -w 1 ${host} ${port}; done`)

  /** Takes the bridge's ACL down for the length of `action`, and lets berth put it back. */
  async function withoutWalls(action: () => Promise<void>): Promise<void> {
    const shared = lab.lxd.inProject('default')
    const open = { description: '', egress: [ALLOW], ingress: [ALLOW] }
    await networkAcls.update(shared, `berth-${lab.node.network}`, open, undefined)
    try {
      await action()
    } finally {
      await lab.containers.ensureNode(lab.node)
    }
  }
  const ALLOW = { action: 'allow', state: 'enabled' } as const

  it('reaches the outside, the DNS of the node and the manage endpoint', async () => {
    await using outside = await lab.listen('tcp', { outside: true })
    await using _manage = await lab.listen('tcp', { port: lab.node.managePort, outside: true })
    expect(await reaches(OUTSIDE, outside.port)).toBe(true)
    expect(await reaches(gateway, 53)).toBe(true)
    expect(await reaches(lab.node.manageAddress, lab.node.managePort)).toBe(true)
  })

  it('reaches nothing else of the machine with the manage endpoint, which lies in a denied network', async () => {
    await using other = await lab.listen('tcp', { outside: true })
    expect(await reaches(lab.node.manageAddress, other.port)).toBe(false)
    await withoutWalls(async () => expect(await reaches(lab.node.manageAddress, other.port)).toBe(true))
  })

  it("does not reach LXD's HTTPS port by any address of the node", async () => {
    expect(await hostReaches(lab.lab.nodeAddress, HTTPS)).toBe(true)
    expect(await reaches(lab.lab.nodeAddress, HTTPS)).toBe(false)
    expect(await reaches(gateway, HTTPS)).toBe(false)
    await withoutWalls(async () => expect(await reaches(lab.lab.nodeAddress, HTTPS)).toBe(true))
  })

  it("does not reach the node's other ports, by TCP, UDP, broadcast or multicast", async () => {
    await using tcp = await lab.listen('tcp')
    await using udp = await lab.listen('udp', { member: gateway })
    const targets = [gateway, lab.lab.nodeAddress, '255.255.255.255', '224.0.0.251']
    expect(await reaches(gateway, tcp.port)).toBe(false)
    expect(await reaches(lab.lab.nodeAddress, tcp.port)).toBe(false)
    for (const target of targets) await send(target, udp.port, `walled-${target}`)
    await sleep(300)
    expect(udp.heard).toEqual([])
    await withoutWalls(async () => {
      expect(await reaches(gateway, tcp.port)).toBe(true)
      for (const target of targets) await send(target, udp.port, `open-${target}`)
      await sleep(300)
    })
    expect(new Set(udp.heard)).toEqual(new Set(targets.map(target => `open-${target}`)))
  })

  it('does not reach denied networks', async () => {
    await using listener = await lab.listen('tcp', { outside: true })
    expect(await reaches(DENIED, listener.port)).toBe(false)
    expect(await reaches(OUTSIDE, listener.port)).toBe(true)
    await withoutWalls(async () => expect(await reaches(DENIED, listener.port)).toBe(true))
  })

  itLong('has no IPv6: the bridge has no such address, and would it have one, two walls stand before it', async () => {
    const addresses = (device: string) => run([...lab.lab.enter, 'ip', '-6', '-o', 'address', 'show', 'dev', device])
    expect((await addresses('lo')).stdout).toContain('::1')
    expect((await addresses(lab.node.network)).stdout).toBe('')
    await using _address = await giveAddress6()
    const reaches6 = async () =>
      (await lab.inside(alice, `ip -6 address replace ${OWN6}/64 dev eth0 nodad; ping -6 -c 2 -W 1 ${GATEWAY6}`))
        .exitCode === 0
    expect(await reaches6()).toBe(false)
    await withoutWalls(async () => expect(await reaches6()).toBe(false))
    await setNic(alice, OPEN_NIC)
    expect(await reaches6()).toBe(false)
    await withoutWalls(async () => expect(await reaches6()).toBe(true))
    await putBack(alice)
  })

  /** What the bridge never has: an IPv6 address, to be reached at where no wall stands. */
  async function giveAddress6(): Promise<AsyncDisposable> {
    const switchedTo = (off: 0 | 1) =>
      run([...lab.lab.enter, 'sysctl', '-qw', `net.ipv6.conf.${lab.node.network}.disable_ipv6=${off}`])
    await switchedTo(0)
    const added = ['ip', '-6', 'address', 'add', `${GATEWAY6}/64`, 'dev', lab.node.network, 'nodad']
    expect(await run([...lab.lab.enter, ...added])).toMatchObject({ code: 0, stderr: '' })
    return { [Symbol.asyncDispose]: async () => void (await switchedTo(1)) }
  }

  it('does not reach other containers, directly or through their fixed ports', async () => {
    // The test before has changed the bridge.
    await expect.poll(() => hostReaches(bobAddress, 22)).toBe(true)
    expect(await reaches(bobAddress, 22)).toBe(false)
    expect(await reaches(lab.node.address, bob.fixedPort)).toBe(false)
    expect((await lab.inside(alice, `ping -c 1 -W 1 ${bobAddress}`)).exitCode).not.toBe(0)
    expect(await lab.ssh(bob, 'id -un')).toMatchObject({ code: 0, stdout: 'bob\n' })
    await withoutWalls(async () => expect(await reaches(bobAddress, 22)).toBe(false))
    await setNic(alice, { 'security.port_isolation': 'false' })
    await withoutWalls(async () => expect(await reaches(bobAddress, 22)).toBe(true))
    await putBack(alice)
    expect(await reaches(bobAddress, 22)).toBe(false)
  })

  itLong('gets nowhere with the address or the MAC of another container, even of one that is stopped', async () => {
    await using outside = await lab.listen('tcp', { outside: true })
    const mac = (await lab.inside(bob, 'cat /sys/class/net/eth0/address')).stdout.trim()
    await lab.containers.stop(bob, lab.node, { timeoutMs: 0 })
    const probe = `nc -z -w 2 ${OUTSIDE} ${outside.port}`
    const stealAddress = `ip address add ${bobAddress}/32 dev eth0; ${probe} -s ${bobAddress}; code=$?; ip address del ${bobAddress}/32 dev eth0; exit $code`
    const stealMac = `own=$(cat /sys/class/net/eth0/address); ip link set eth0 address ${mac}; ip neigh flush dev eth0; ${probe}; code=$?; ip link set eth0 address $own; exit $code`
    const steal = async () => [
      (await lab.inside(alice, stealAddress)).exitCode === 0,
      (await lab.inside(alice, stealMac)).exitCode === 0
    ]
    expect(await reaches(OUTSIDE, outside.port)).toBe(true)
    expect(await steal()).toEqual([false, false])
    expect((await run([...lab.lab.enter, 'ping', '-c', '1', '-W', '1', bobAddress])).code).not.toBe(0)
    await setNic(alice, OPEN_NIC)
    expect(await steal()).toEqual([true, true])
    await putBack(alice)
    expect(await steal()).toEqual([false, false])
  })

  const OPEN_NIC = {
    'security.mac_filtering': 'false',
    'security.ipv4_filtering': 'false',
    'security.ipv6_filtering': 'false'
  }

  /** Restarts the container with other settings of its NIC. */
  async function setNic(user: User, settings: Record<string, string>): Promise<void> {
    await lab.containers.stop(user, lab.node, { timeoutMs: 0 })
    const { etag, devices, ...instance } = await getInstance(lab.lxd, user.name)
    const eth0 = Object.fromEntries(
      Object.entries({ ...devices['eth0'], ...settings }).filter(([, value]) => value !== '')
    )
    await updateInstance(lab.lxd, user.name, { ...instance, devices: { ...devices, eth0 } }, etag)
    await setInstanceState(lab.lxd, user.name, 'start')
    await waitForNetwork(user)
  }

  /** berth's own start puts the NIC right. */
  async function putBack(user: User): Promise<void> {
    await lab.containers.stop(user, lab.node, { timeoutMs: 0 })
    await lab.containers.start(user, lab.node)
    expect((await getInstance(lab.lxd, user.name)).devices['eth0']).toMatchObject({ 'security.mac_filtering': 'true' })
  }

  const waitForNetwork = (user: User) =>
    lab.inside(
      user,
      'for i in $(seq 100); do ip -4 -o address show dev eth0 | grep -q inet && exit 0; sleep 0.1; done; exit 1'
    )
})
