import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Containers } from '../../src/containers/containers.ts'
import { NodeSetup } from '../../src/containers/node-setup.ts'
import type { User } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { getInstance } from '../../src/lxd/instances.ts'
import { probeHostKey } from '../../src/ssh/probe-host-key.ts'
import { networkAcls } from '../../src/lxd/network-acls.ts'
import { startAnsweringProxy } from '../lxd/answering-proxy.ts'
import { run } from '../rig.ts'
import { itLong, later } from '../suite.ts'
import { openLabContainers, type LabContainers } from './lab-containers.ts'

const reasonOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    (error: unknown) => (error instanceof UserError ? error.reason : String(error))
  )

describe('a node that nothing has been made on', () => {
  it('is put right by several berths at once', async () => {
    await using lab = await openLabContainers()
    const ensure = () => new NodeSetup([lab.node], () => lab.lxd, lab.log).ensure(lab.node)
    const [one, ...others] = await Promise.all([ensure(), ensure(), ensure()])
    expect(one?.bridge).toMatch(/^\d+\.\d+\.\d+\.\d+\/\d+$/)
    expect(others.map(({ bridge }) => bridge)).toEqual([one?.bridge, one?.bridge])
  })
})

describe('what a node gives its containers', () => {
  const tag = `berth-test-${process.pid}`
  const device = `/dev/${tag}`
  const absent = `/dev/${tag}-absent`
  let shared: string
  let lab: LabContainers
  let alice: User

  beforeAll(async () => {
    shared = mkdtempSync('/var/lib/berth-lab/test-mount-')
    chmodSync(shared, 0o755)
    writeFileSync(join(shared, 'hello'), 'from the node\n')
    await run(['mknod', '-m', '666', device, 'c', '1', '3'])
    lab = await openLabContainers({
      node: () => ({
        gpus: { devices: [device, absent] },
        mounts: [{ source: shared, path: '/SSD' }],
        idmap: 'shared',
        nesting: true
      })
    })
    alice = await lab.addUser('alice')
    await lab.containers.register(alice, lab.node, undefined)
  })
  afterAll(async () => {
    await lab[Symbol.asyncDispose]()
    rmSync(shared, { recursive: true })
    rmSync(device)
  })

  it('is a plain device node where there is one, for every user in the container', async () => {
    expect(await lab.ssh(alice, `echo hello >${device}; stat -c '%t %T %a' ${device}; ls ${absent}`)).toMatchObject({
      stdout: '1 3 666\n'
    })
    expect(await lab.containers.status(alice, lab.node)).toMatchObject({
      gpus: [device, absent],
      mounts: ['/SSD'],
      faults: []
    })
  })

  it('is a mounted directory', async () => {
    expect(await lab.ssh(alice, 'cat /SSD/hello')).toMatchObject({ code: 0, stdout: 'from the node\n' })
  })

  it('is one range of uids for all where they are to share, and nesting where it is asked for', async () => {
    expect((await lab.inside(alice, 'cat /proc/self/uid_map')).stdout).not.toMatch(/ 65536\n/)
    expect((await getInstance(lab.lxd, 'alice')).expanded_config).toMatchObject({ 'security.nesting': 'true' })
  })

  itLong('changes with the configuration at the next start', async () => {
    const { containers, node } = lab.reconfigure({ gpus: 'auto', mounts: [], idmap: 'isolated', nesting: false })
    await containers.restart(alice, node)
    expect((await lab.inside(alice, `ls -d ${device} /SSD/hello`)).stdout).toBe('')
    expect((await lab.inside(alice, 'cat /proc/self/uid_map')).stdout).toMatch(/ 65536\n/)
    expect(await containers.status(alice, node)).toMatchObject({ gpus: [], mounts: [], faults: [] })
    const { containers: wanting, node: withGpu } = lab.reconfigure({ gpus: ['65:00.0'], mounts: [] })
    await wanting.restart(alice, withGpu)
    expect((await wanting.status(alice, withGpu)).faults).toEqual(['The GPU 65:00.0 is not in gpu1.'])
  })

  itLong('fails by name where a mount is not there', async () => {
    const { containers, node } = lab.reconfigure({ mounts: [{ source: '/no/such/directory', path: '/SSD' }] })
    const failure = await containers.restart(alice, node).catch((error: unknown) => error)
    expect(failure).toMatchObject({ details: expect.stringContaining('/no/such/directory') as string })
    expect(await lab.containers.start(alice, lab.node)).toEqual({ already: false })
  })

  itLong('is a userland forward on all addresses where nat cannot be', async () => {
    const { containers, node } = lab.reconfigure({ listenAddress: '0.0.0.0' })
    await containers.restart(alice, node)
    expect(await containers.status(alice, node)).toMatchObject({ forwarding: 'proxy', faults: [] })
    expect(await lab.ssh(alice, 'id -un')).toMatchObject({ code: 0, stdout: 'alice\n' })
  })

  itLong('is refused where something else has the fixed port', async () => {
    const { containers, node } = lab.reconfigure({ forwarding: 'proxy' })
    await containers.stop(alice, node)
    {
      await using _other = await lab.listen('tcp', { port: alice.fixedPort })
      expect(await reasonOf(containers.start(alice, node))).toBe('port-taken')
    }
    expect(await containers.start(alice, node)).toEqual({ already: false })
  })

  itLong('is told apart from what answers in its place', async () => {
    await lab.containers.stop(alice, lab.node)
    const impostor = lab.open(lab.config, async (host, port, options) => ({
      ...(await probeHostKey(host, port, options)),
      publicKey: 'ssh-ed25519 AAAAother'
    }))
    const failure = await impostor.start(alice, lab.node).catch((error: unknown) => error)
    expect(failure).toMatchObject({
      reason: 'unreachable',
      details: expect.stringContaining('another host key') as string
    })
  })
})

describe('a shell through the server', () => {
  let lab: LabContainers
  let alice: User
  beforeAll(async () => {
    lab = await openLabContainers()
    alice = await lab.addUser('alice')
    await lab.containers.register(alice, lab.node, undefined)
  })
  afterAll(() => lab[Symbol.asyncDispose]())

  interface Asked {
    readonly loginUser?: string
    readonly command?: string[]
    readonly input?: string
    readonly terminal?: boolean
    readonly gone?: AbortSignal
  }
  async function shell({
    loginUser = 'root',
    command,
    input = '',
    terminal = false,
    gone = new AbortController().signal
  }: Asked) {
    const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()]
    const read = (stream: PassThrough) => {
      let text = ''
      stream.on('data', (chunk: Buffer) => (text += chunk.toString()))
      return () => text
    }
    const [out, err] = [read(stdout), read(stderr)]
    stdin.end(input)
    const code = await lab.containers.openShell(alice, lab.node, {
      loginUser,
      command,
      terminal: terminal ? { term: 'xterm', columns: 91, rows: 23, onResize: () => {} } : undefined,
      stdin,
      stdout,
      stderr,
      onSignal: () => {},
      gone
    })
    return { code, stdout: out(), stderr: err() }
  }

  it('runs words as they are, with their input, both outputs and exit status', async () => {
    const command = ['sh', '-c', 'cat; echo "$1" >&2; exit 7', 'sh', 'a  b;$(id)']
    expect(await shell({ command, input: 'typed\n' })).toEqual({ code: 7, stdout: 'typed\n', stderr: 'a  b;$(id)\n' })
  })

  it('is a login shell of root, or of another user, without a command', async () => {
    expect(await shell({ input: 'id -un; pwd; shopt -q login_shell && echo login\n' })).toMatchObject({
      stdout: 'root\n/root\nlogin\n'
    })
    expect(await shell({ loginUser: 'alice', input: 'id -un; pwd\n' })).toMatchObject({
      stdout: 'alice\n/home/alice\n'
    })
    const words = ['sh', '-c', 'id -un; echo "$1"; exit 3', 'sh', 'a  b']
    expect(await shell({ loginUser: 'alice', command: words })).toMatchObject({ code: 3, stdout: 'alice\na  b\n' })
  })

  it('has a terminal of the right size', async () => {
    const { stdout } = await shell({ command: ['sh', '-c', 'tty; stty size; echo $TERM'], terminal: true })
    expect(stdout).toMatch(/^\/dev\/pts\/\d+\r\n23 91\r\nxterm\r\n$/)
  })

  it('ends with the connection', async () => {
    const gone = new AbortController()
    const running = later(shell({ command: ['sleep', '4711'], gone: gone.signal }))
    await sleep(1000)
    expect((await lab.inside(alice, 'pgrep -fx "sleep 4711"')).exitCode).toBe(0)
    gone.abort()
    await running
    await expect.poll(async () => (await lab.inside(alice, 'pgrep -fx "sleep 4711"')).exitCode).toBe(1)
  })

  it('is refused while the container is stopped', async () => {
    await lab.containers.stop(alice, lab.node)
    expect(await reasonOf(shell({ command: ['true'] }))).toBe('not-running')
  })
})

describe('a node whose server', () => {
  let lab: LabContainers
  let alice: User
  let directory: string
  beforeAll(async () => {
    lab = await openLabContainers()
    alice = await lab.addUser('alice')
    directory = mkdtempSync(join(tmpdir(), 'berth-silent-'))
    await lab.containers.register(alice, lab.node, undefined)
  })
  afterAll(async () => {
    rmSync(directory, { recursive: true })
    await lab[Symbol.asyncDispose]()
  })

  it('comes back gets the keys that did not arrive', async () => {
    const lxd = new LxdClient({ url: `unix://${directory}/later`, project: lab.node.project })
    const containers = lab.open(lab.config, undefined, lxd)
    await lab.addKey(alice)
    expect(await containers.pushKeys(alice)).toEqual([{ node: 'gpu1', outcome: 'node-unavailable' }])
    expect((await lab.containers.status(alice, lab.node)).faults).toEqual([
      expect.stringMatching(/did not answer/) as string
    ])
    expect((await lab.ssh(alice, 'true', { key: 'key-alice-1' })).code).toBe(255)
    symlinkSync(lab.lab.lxdSocket, join(directory, 'later'))
    const login = async () => (await lab.ssh(alice, 'true', { key: 'key-alice-1' })).code
    await expect.poll(login, { timeout: 30_000, interval: 1000 }).toBe(0)
    const faults = async () => (await lab.containers.status(alice, lab.node)).faults
    await expect.poll(faults, { timeout: 5000, interval: 500 }).toEqual([])
    await lxd.close()
  })

  it.each([
    ['GET', '11.1.1.1/32'],
    ['PUT', '11.1.1.2/32']
  ])('stumbles once over the project of somebody else is asked again (%s)', async (method, denied) => {
    const node = { ...lab.node, deny: [denied] }
    const acl = `/1.0/network-acls/berth-${node.network}`
    const error = 'Failed getting ACL network usage: Failed to load project "other": Project not found'
    let stumbled = 0
    await using _ = await startAnsweringProxy(lab.lab.lxdSocket, join(directory, method), answer => {
      if (answer.path !== acl || answer.method !== method || stumbled++ > 0) return
      answer.status = 404
      answer.body = { type: 'error', error, error_code: 404, metadata: {} }
    })
    const lxd = new LxdClient({ url: `unix://${join(directory, method)}`, project: node.project })
    const config = { ...lab.config, nodes: new Map([['gpu1', node]]) }
    await lab.open(config, undefined, lxd).ensureNode(node)
    expect(stumbled).toBeGreaterThan(0)
    const changed = await networkAcls.find(lab.lxd.inProject('default'), `berth-${node.network}`)
    expect(changed?.egress.map(({ destination }) => destination).join()).toContain(denied.replace('/32', ''))
    await lxd.close()
  })

  // From here on: those who cannot reach the node go on trying to bring alice's keys, and noting that they could not.
  async function expectUnavailable(containers: Containers): Promise<void> {
    const startMs = performance.now()
    const reasons = await Promise.all([
      reasonOf(containers.status(alice, lab.node)),
      reasonOf(containers.stop(alice, lab.node)),
      containers.pushKeys(alice).then(([push]) => push?.outcome)
    ])
    expect(reasons).toEqual(['node-unavailable', 'node-unavailable', 'node-unavailable'])
    expect(await reasonOf(containers.start(alice, lab.node))).toBe('node-unavailable')
    expect(performance.now() - startMs).toBeLessThan(10_000)
    const nextMs = performance.now()
    expect(await reasonOf(containers.register(alice, lab.node, undefined))).toBe('node-unavailable')
    expect(performance.now() - nextMs).toBeLessThan(5000)
  }

  it('is not there is said to be unavailable, at once', async () => {
    const lxd = new LxdClient({ url: `unix://${directory}/none`, project: 'x' })
    await expectUnavailable(lab.open(lab.config, undefined, lxd))
    await lxd.close()
  })

  it('takes connections and does not answer is said to be unavailable, within five seconds', async () => {
    const server = createServer(() => {}).listen(join(directory, 'silent'))
    await once(server, 'listening')
    const lxd = new LxdClient({ url: `unix://${directory}/silent`, project: 'x' })
    await expectUnavailable(lab.open(lab.config, undefined, lxd))
    await lxd.close()
    server.close()
  })

  it('comes back is used again', async () => {
    expect(await lab.containers.start(alice, lab.node)).toEqual({ already: true })
    expect(await lab.ssh(alice, 'id -un')).toMatchObject({ code: 0, stdout: 'alice\n' })
  })
})
