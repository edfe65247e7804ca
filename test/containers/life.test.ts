import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { User } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
import {
  createInstance,
  deleteInstance,
  findInstance,
  getInstance,
  listInstances,
  updateInstance
} from '../../src/lxd/instances.ts'
import { networkAcls } from '../../src/lxd/network-acls.ts'
import { networks } from '../../src/lxd/networks.ts'
import { profiles } from '../../src/lxd/profiles.ts'
import { listRows } from '../../src/operations/journal-rows.ts'
import { itLong, later, SERVERS } from '../suite.ts'
import { openLabContainers, type LabContainers } from './lab-containers.ts'

/** The reason of the UserError that the promise ends with. */
const reasonOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    (error: unknown) => (error instanceof UserError ? error.reason : String(error))
  )

describe.each(SERVERS)('the life of a container, on %s', server => {
  let lab: LabContainers
  let alice: User
  let bob: User

  beforeAll(async () => {
    const limits = { memory: '512MiB', processes: 500, disk: '512MiB', cpu: 1 }
    lab = await openLabContainers({ server, node: () => ({ limits }) })
    ;[alice, bob] = [await lab.addUser('alice'), await lab.addUser('bob')]
  })
  afterAll(() => lab[Symbol.asyncDispose]())

  /** As LXD has it after a power cut. */
  const leaveInterrupted = ({ name }: User) =>
    // LXD notes the power state before it is done with a stop.
    vi.waitFor(
      async () => {
        const { config, etag, ...rest } = await getInstance(lab.lxd, name)
        const running = { ...config, 'volatile.last_state.power': 'RUNNING' }
        await updateInstance(lab.lxd, name, { ...rest, config: running }, etag)
      },
      { timeout: 10_000, interval: 200 }
    )

  it('is made for two members at once, each with an address and uids of its own', async () => {
    const made = await Promise.all([alice, bob].map(user => lab.containers.register(user, lab.node, undefined)))
    expect(made).toEqual([{ created: true }, { created: true }])
    const [first, second] = await Promise.all(
      [alice, bob].map(user => lab.inside(user, 'cat /proc/self/uid_map; hostname -I'))
    )
    expect(first?.stdout).toMatch(/^ +0 +\d{6,} +65536\n10\./)
    expect(first?.stdout).not.toBe(second?.stdout)
    for (const user of [alice, bob]) {
      expect(await lab.ssh(user, 'id -un; id -u; sudo id -u; hostname; pwd')).toMatchObject({
        code: 0,
        stdout: `${user.name}\n1000\n0\n${user.name}\n/home/${user.name}\n`
      })
    }
  })

  it('is told whole by status', async () => {
    const status = await lab.containers.status(alice, lab.node)
    expect(status).toMatchObject({
      node: 'gpu1',
      name: 'alice',
      template: 'debian-12',
      state: 'running',
      fixedPort: alice.fixedPort,
      address: lab.lab.nodeAddress,
      forwarding: 'nat',
      cpu: { limit: 1 },
      memory: { limitBytes: 512 * 2 ** 20 },
      disk: { limitBytes: 512 * 2 ** 20 },
      processes: { limit: 500 },
      faults: [],
      operation: undefined
    })
    expect(status.memory.usedBytes).toBeGreaterThan(2 ** 20)
    expect(status.processes.used).toBeGreaterThan(3)
    expect(Date.now() - (status.startedAtMs ?? 0)).toBeLessThan(120_000)
    const { stdout } = await lab.inside(alice, 'hostname -I')
    expect(stdout.trim()).toBe(status.addresses[0])
  })

  it('keeps its host keys through a restart, and tells them to nobody but its owner', async () => {
    const before = await lab.inside(alice, 'cat /etc/ssh/ssh_host_*_key.pub')
    await lab.containers.restart(alice, lab.node)
    expect((await lab.inside(alice, 'cat /etc/ssh/ssh_host_*_key.pub')).stdout).toBe(before.stdout)
    expect(before.stdout).toContain(lab.containers.hostKeys(alice, lab.node)[0]?.publicKey)
    expect((await lab.inside(alice, 'ls /etc/ssh | grep -c _key$')).stdout).toBe('2\n')
    expect((await lab.ssh(alice, 'cat /etc/ssh/ssh_host_ed25519_key')).code).not.toBe(0)
    expect(await lab.ssh(alice, 'true')).toMatchObject({ code: 0 })
  })

  it('gets keys at once while it runs, at the next start while it is stopped', async () => {
    const second = await lab.addKey(bob)
    expect(await lab.containers.pushKeys(bob)).toEqual([{ node: 'gpu1', outcome: 'pushed' }])
    expect(await lab.ssh(bob, 'true', { key: 'key-bob-1' })).toMatchObject({ code: 0 })
    await lab.containers.stop(bob, lab.node)
    const [, key] = lab.keys.listFor(bob)
    lab.keys.remove(bob, key?.fingerprint as string)
    expect(await lab.containers.pushKeys(bob)).toEqual([{ node: 'gpu1', outcome: 'at-next-start' }])
    await lab.containers.start(bob, lab.node)
    expect((await lab.ssh(bob, 'true', { key: 'key-bob-1' })).code).toBe(255)
    expect(await lab.ssh(bob, 'true')).toMatchObject({ code: 0 })
    expect(second).toContain('key-bob-1')
    await lab.inside(bob, 'rm -r /etc/ssh/berth_keys')
    const { faults } = await lab.containers.status(bob, lab.node)
    expect(faults).toEqual([expect.stringMatching(/berth_keys\/bob is not a regular file/) as string])
    await lab.containers.restart(bob, lab.node)
    expect(await lab.ssh(bob, 'true')).toMatchObject({ code: 0 })
  })

  it('is put right, with profile and walls, when somebody changed them', async () => {
    const shared = lab.lxd.inProject('default')
    const acl = `berth-${lab.node.network}`
    const [profile, walls, bridge] = await Promise.all([
      profiles.find(lab.lxd, 'berth'),
      networkAcls.find(shared, acl),
      networks.find(shared, lab.node.network)
    ])
    await lab.containers.stop(alice, lab.node)
    await profiles.update(
      lab.lxd,
      'berth',
      {
        config: { ...profile?.config, 'limits.processes': '7', 'security.nesting': 'true' },
        devices: profile?.devices ?? {}
      },
      undefined
    )
    await networkAcls.update(
      shared,
      acl,
      { description: '', egress: [{ action: 'allow', state: 'enabled' }], ingress: [] },
      undefined
    )
    await networks.update(
      shared,
      lab.node.network,
      { config: { 'ipv4.address': bridge?.config['ipv4.address'] ?? '' } },
      undefined
    )
    await lab.containers.start(alice, lab.node)
    expect(await profiles.find(lab.lxd, 'berth')).toMatchObject({ config: profile?.config, devices: profile?.devices })
    // The bridges of other tests come and go meanwhile, and their addresses in the rules with them.
    const anyAddresses = (rules: readonly object[] = []) =>
      rules.map(rule => ('destination' in rule ? { ...rule, destination: expect.any(String) as string } : rule))
    expect(walls?.egress.some(rule => rule.action === 'reject')).toBe(true)
    expect(await networkAcls.find(shared, acl)).toMatchObject({
      egress: anyAddresses(walls?.egress),
      ingress: anyAddresses(walls?.ingress)
    })
    expect((await networks.find(shared, lab.node.network))?.config).toEqual(bridge?.config)
    expect((await getInstance(lab.lxd, 'alice')).expanded_config).toMatchObject({ 'limits.processes': '500' })
  })

  it('of a disabled member is closed and stopped, or goes on without access', async () => {
    expect(await lab.containers.disable(bob, { keepRunning: true })).toEqual([
      { node: 'gpu1', outcome: 'runs without access' }
    ])
    expect((await lab.ssh(bob, 'true')).code).toBe(255)
    expect((await lab.inside(bob, 'grep -c ssh-ed25519 /etc/ssh/berth_keys/bob')).stdout).toBe('0\n')
    expect(await lab.containers.enable(bob)).toEqual([{ node: 'gpu1', outcome: 'open again' }])
    expect(await lab.ssh(bob, 'true')).toMatchObject({ code: 0 })
    expect(await lab.containers.disable(bob)).toEqual([{ node: 'gpu1', outcome: 'stopped' }])
    expect(await lab.containers.enable(bob)).toEqual([{ node: 'gpu1', outcome: 'stopped' }])
    await lab.containers.start(bob, lab.node)
    expect(await lab.ssh(bob, 'true')).toMatchObject({ code: 0 })
  })

  itLong('of a member shut out while it restarts does not come up again', async () => {
    await lab.inside(bob, 'systemctl mask poweroff.target halt.target && systemctl daemon-reload')
    const restarting = later(lab.containers.restart(bob, lab.node, { timeoutMs: 3000 }))
    // As `user disable` does; `bob` here is as he was when he typed it.
    lab.users.setState(bob, 'disabled')
    const steps: string[] = []
    const disabling = lab.containers.disable(bob, {}, step => steps.push(step))
    expect(await reasonOf(restarting)).toBe('user-disabled')
    expect(await disabling).toEqual([{ node: 'gpu1', outcome: 'stopped' }])
    expect(steps).toContainEqual(expect.stringContaining('`restart` has been running'))
    expect(await reasonOf(lab.containers.start(bob, lab.node))).toBe('user-disabled')
    lab.users.setState(bob, 'enabled')
    await lab.containers.start(bob, lab.node)
    await lab.inside(bob, 'systemctl unmask poweroff.target halt.target')
  })

  // The same code with the same answers: once is enough.
  if (server === 'lxd') {
    it('is held to its limits', async () => {
      const read = (path: string) => `cat /sys/fs/cgroup/${path} /sys/fs/cgroup/${path.replace(/.*\//, '')} 2>/dev/null`
      const memory = await lab.inside(
        alice,
        `${read('memory/memory.limit_in_bytes')}; cat /sys/fs/cgroup/memory.max 2>/dev/null`
      )
      expect(memory.stdout).toContain(String(512 * 2 ** 20))
      expect((await lab.inside(alice, read('pids/pids.max'))).stdout).toContain('500')
      expect(
        (await lab.inside(alice, "grep -c . /proc/self/status; awk '/Cpus_allowed_list/ {print $2}' /proc/self/status"))
          .stdout
      ).toMatch(/\n\d\n$/)
      const tooMuch = 'dd if=/dev/zero of=/root/fill bs=1M count=600 2>/dev/null; code=$?; rm -f /root/fill; exit $code'
      expect((await lab.inside(alice, tooMuch)).exitCode).not.toBe(0)
    })

    itLong('starts and stops as often as one asks', async () => {
      expect(await lab.containers.start(alice, lab.node)).toEqual({ already: true })
      expect(await lab.containers.stop(alice, lab.node)).toBe('stopped')
      expect(await lab.containers.stop(alice, lab.node)).toBe('already-stopped')
      expect(await lab.containers.status(alice, lab.node)).toMatchObject({ state: 'stopped', faults: [] })
      expect(await lab.containers.start(alice, lab.node)).toEqual({ already: false })
    })

    itLong('is killed where it does not end by itself', async () => {
      await lab.inside(
        alice,
        'for unit in halt poweroff shutdown; do ln -s /dev/null /etc/systemd/system/$unit.target; done; systemctl daemon-reload'
      )
      const startMs = performance.now()
      expect(await lab.containers.stop(alice, lab.node, { timeoutMs: 2000 })).toBe('killed')
      expect(performance.now() - startMs).toBeGreaterThan(2000)
      expect(await lab.containers.start(alice, lab.node)).toEqual({ already: false })
      await lab.inside(alice, 'rm /etc/systemd/system/*.target; systemctl daemon-reload')
    })

    it('runs again after a reboot of the node, unless it was shut down before', async () => {
      await lab.inside(bob, 'poweroff').catch(() => {})
      const power = async () => (await getInstance(lab.lxd, 'bob')).config['volatile.last_state.power']
      await expect.poll(power, { timeout: 30_000 }).toBe('STOPPED')
      await lab.containers.resume()
      expect((await findInstance(lab.lxd, 'bob'))?.status).toBe('Stopped')
      await leaveInterrupted(bob)
      await lab.containers.resume()
      expect((await findInstance(lab.lxd, 'bob'))?.status).toBe('Running')
      expect(await lab.ssh(bob, 'true')).toMatchObject({ code: 0 })
    })

    itLong('runs again after a reboot of the node, whatever keeps it or another at first', async () => {
      for (const user of [alice, bob]) {
        await lab.containers.stop(user, lab.node)
        await leaveInterrupted(user)
        lab.containers.parts.records.setShouldRun(user, 'gpu1', true)
      }
      const { etag, ...instance } = await getInstance(lab.lxd, 'alice')
      const lost = { type: 'unix-char', source: '/dev/lost', path: '/dev/lost' }
      await updateInstance(lab.lxd, 'alice', { ...instance, devices: { ...instance.devices, lost } }, etag)
      const free = Promise.withResolvers<void>()
      const other = later(
        lab.containers.change(
          bob,
          lab.node,
          'port 1',
          () => {},
          () => free.promise
        )
      )
      const resumed = later(lab.containers.resume())
      const tried = expect.objectContaining({ user: 'alice', kind: 'start', outcome: 'start-failed' }) as object
      await expect.poll(() => listRows(lab.database, 2), { timeout: 30_000 }).toContainEqual(tried)
      free.resolve()
      await other
      await resumed
      expect((await findInstance(lab.lxd, 'bob'))?.status).toBe('Running')
      const still = await getInstance(lab.lxd, 'alice')
      await updateInstance(lab.lxd, 'alice', { ...still, devices: instance.devices }, still.etag)
      await lab.containers.start(alice, lab.node)
    })

    itLong('that is gone from the server can be made anew, and is still the same host', async () => {
      await lab.containers.stop(bob, lab.node)
      await deleteInstance(lab.lxd, 'bob')
      expect(await lab.containers.status(bob, lab.node)).toMatchObject({ state: 'missing' })
      expect(await reasonOf(lab.containers.start(bob, lab.node))).toBe('not-registered')
      expect(await lab.containers.register(bob, lab.node, undefined)).toEqual({ created: true })
      expect(await lab.ssh(bob, 'id -un')).toMatchObject({ code: 0, stdout: 'bob\n' })
    })

    itLong('that was half made is finished, wherever berth was ended', async () => {
      const carol = await lab.addUser('carol')
      // The record alone.
      lab.database
        .prepare('INSERT INTO containers (user_id, node, template, ipv4, created_at_ms) VALUES (?, ?, ?, ?, ?)')
        .run(carol.id, 'gpu1', 'debian-12', '192.0.2.9', Date.now())
      expect(await lab.containers.status(carol, lab.node)).toMatchObject({ state: 'missing' })
      // The record and an instance that was never started, its address of a bridge that has changed since.
      await createInstance(lab.lxd, {
        name: 'carol',
        source: { type: 'image', alias: 'debian-12' },
        profiles: ['berth']
      })
      await expect
        .poll(() => lab.containers.status(carol, lab.node), { timeout: 5000 })
        .toMatchObject({ state: 'stopped', faults: [expect.stringMatching(/never set up/) as string] })
      expect(await lab.containers.start(carol, lab.node)).toEqual({ already: false })
      expect(await lab.ssh(carol, 'id -un')).toMatchObject({ code: 0, stdout: 'carol\n' })
      // Running, set up but for the last step.
      lab.database.prepare('UPDATE containers SET provisioned_at_ms = NULL WHERE user_id = ?').run(carol.id)
      expect(await lab.containers.register(carol, lab.node, undefined)).toEqual({ created: false })
      expect(await lab.containers.status(carol, lab.node)).toMatchObject({ state: 'running', faults: [] })
      expect((await listInstances(lab.lxd)).filter(({ name }) => name === 'carol')).toHaveLength(1)
    })

    it('is refused with the reason: no image, no such template, a name the image has', async () => {
      const sgx = lab.users.add('sgx')
      const missing = lab.open({
        ...lab.config,
        templates: [{ name: 'none', image: 'no-such-image', description: '' }]
      })
      expect(await reasonOf(missing.register(sgx, lab.node, undefined))).toBe('image-missing')
      expect(await reasonOf(lab.containers.register(sgx, lab.node, 'other'))).toBe('unknown-template')
      // A group of Debian's udev.
      expect(await reasonOf(lab.containers.register(sgx, lab.node, undefined))).toBe('bad-user-name')
      expect(await findInstance(lab.lxd, 'sgx')).toBeUndefined()
      expect(lab.containers.nodesOf(sgx)).toEqual([])
      for (const verb of ['start', 'stop', 'restart', 'status'] as const)
        expect(await reasonOf(lab.containers[verb](sgx, lab.node))).toBe('not-registered')
    })
  }

  it('is deleted for good with its owner', async () => {
    expect(await lab.containers.remove(alice)).toEqual([{ node: 'gpu1', outcome: 'deleted' }])
    expect(await findInstance(lab.lxd, 'alice')).toBeUndefined()
    expect(await reasonOf(lab.containers.status(alice, lab.node))).toBe('not-registered')
  })
})
