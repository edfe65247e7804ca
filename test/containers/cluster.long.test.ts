import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse, stringify } from 'yaml'
import { freePort } from '../free-port.ts'
import { joinCluster } from '../lab/cluster.ts'
import { downLab, upLab } from '../lab/lab.ts'
import { startServer, stopServer, type LabServer } from '../lab/server.ts'
import { run, startRig, type Member, type Ran, type Rig } from '../rig.ts'

const TOKEN = /\b[0-9A-HJKMNP-TV-Z]{26}\b/
/** An address that beta alone has (TEST-NET-3). */
const BETAS_OWN = '203.0.113.99'
const MAIN = [process.execPath, join(import.meta.dirname, '../../src/main.ts')]
const TEST_MS = 240_000

describe.each(['lxd', 'incus'] as const)('two members of a cluster, %s', server => {
  let rig: Rig
  let beta: LabServer
  let alice: Member
  let bob: Member
  let nas: string
  const betaLab = `${process.env['BERTH_TEST_LAB'] ?? 'test'}-${process.pid}${server[0]}`

  beforeAll(async () => {
    nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
    rig = await startRig({
      server,
      ownLab: true,
      config: { snapshots: { dir: nas }, recovery: { keepReplaced: '1h' } }
    })
    beta = await upLab({ name: betaLab, servers: [server], images: [] })
    await joinCluster(rig.lab, 'alpha', beta, 'beta')
    // Of a new name: the server alone made its bridge when the rig came up.
    const network = `${rig.network}c`
    await configure(({ gpu1 }) => ({
      gpu1: { ...gpu1, network, target: 'alpha', project: `${rig.project}-1` },
      gpu2: { ...gpu1, network, target: 'beta', project: `${rig.project}-2`, address: beta.nodeAddress }
    }))
    alice = await rig.addMember('alice')
    bob = await rig.addMember('bob')
  })
  afterAll(async () => {
    await rig[Symbol.asyncDispose]()
    await downLab(betaLab)
    rmSync(nas, { recursive: true })
  })

  type Nodes = Record<'gpu1' | 'gpu2', Record<string, unknown>>
  /** A daemon with other nodes, each with a manage port of its own. */
  async function configure(change: (nodes: Nodes) => Nodes): Promise<void> {
    const config = parse(readFileSync(rig.configPath, 'utf8')) as { nodes: Nodes }
    const nodes = change(config.nodes)
    if (nodes.gpu2['managePort'] === nodes.gpu1['managePort'])
      nodes.gpu2['managePort'] = await freePort(rig.lab.hostAddress)
    await rig.end()
    writeFileSync(rig.configPath, stringify({ ...config, nodes }))
    await rig.serve()
  }

  const on = (member: Member, node: string, words = ''): Promise<Ran> =>
    run(['ssh', '-F', member.sshConfig, `${node}-manage`, words])
  const login = (member: Member, node: string, words: string): Promise<Ran> =>
    run(['ssh', '-F', member.sshConfig, node, words])
  const done = async (ran: Promise<Ran>): Promise<string> => {
    const { code, stdout, stderr } = await ran
    expect(code, stdout + stderr).toBe(0)
    return stdout
  }
  const tokenFor = async (node: string, words: string): Promise<string> =>
    TOKEN.exec(await done(on(alice, node, words)))?.[0] as string
  const [tool, where] = server === 'lxd' ? ['lxc', 'LXD_DIR'] : ['incus', 'INCUS_DIR']
  const lxc = ({ enterAll, lxdDir }: LabServer, ...words: string[]): Promise<string> =>
    done(run([...enterAll, 'env', `${where}=${server === 'lxd' ? lxdDir : '/var/lib/incus'}`, tool, ...words]))
  const members = (node: 1 | 2) => lxc(rig.lab, 'list', '--project', `${rig.project}-${node}`, '-c', 'L', '-f', 'csv')
  const rules = async (): Promise<string> => await lxc(rig.lab, 'network', 'acl', 'show', `berth-${rig.network}c`)
  /** What doctor says of a node, but for what is well. */
  async function faults(name: string): Promise<{ check: string; level: string; mend: string }[]> {
    const { stdout } = await rig.berth('doctor', '--json')
    const { reports } = JSON.parse(stdout) as {
      reports: { node?: string; findings: { check: string; level: string; mend: string; text: string }[] }[]
    }
    const found = reports.find(({ node }) => node === name)?.findings ?? []
    return found.filter(({ level, text }) => level !== 'ok' && !text.includes('known hole'))
  }

  it('are surveyed by init, each with its name and a project of its own', async () => {
    const { stdout } = await run([...MAIN, 'init', '--lxd', beta.lxdSocket, '--stdout'])
    const { nodes } = parse(stdout) as { nodes: Record<string, object> }
    expect(Object.values(nodes)).toMatchObject([{ target: 'beta', project: 'berth-beta' }])
  })

  it('are not used before it is said which of them is meant', async () => {
    const config = parse(readFileSync(rig.configPath, 'utf8')) as { nodes: Nodes }
    const { target: _target, ...gpu1 } = config.nodes.gpu1
    const path = join(rig.directory, 'untold.yaml')
    writeFileSync(path, stringify({ ...config, nodes: { gpu1 } }))
    const told = await run([...MAIN, 'node', 'check', 'gpu1', '--config', path])
    expect(told).toMatchObject({ code: 1, stdout: expect.stringMatching(/FAULT +target:.*\n.*target: alpha or beta/) })
  })

  it('are both well; that one is asked for the other is told', async () => {
    expect(await faults('gpu1')).toEqual([])
    expect(await faults('gpu2')).toMatchObject([
      { check: 'target', level: 'warning', mend: expect.stringContaining(`lxd: https://${beta.nodeAddress}:8443`) }
    ])
  })

  it(
    'each have a container of every user, at the same fixed port, both networks behind the same walls',
    async () => {
      for (const member of [alice, bob]) {
        for (const node of ['gpu1', 'gpu2']) {
          await done(run(['ssh', '-F', member.sshConfig, `register@${node}-manage`, member.name]))
          expect(await done(login(member, node, 'id -un; sudo id -u'))).toBe(`${member.name}\n0\n`)
          await done(login(member, node, `echo ${node} > whose`))
        }
      }
      expect(await members(1)).toBe('alpha\nalpha\n')
      expect(await members(2)).toBe('beta\nbeta\n')
      for (const node of ['gpu1', 'gpu2']) {
        for (const address of [rig.lab.nodeAddress, beta.nodeAddress]) {
          const probe = await login(alice, node, `nc -z -w 2 ${address} 8443 && echo open || echo closed`)
          expect({ node, address, stdout: probe.stdout }).toMatchObject({ stdout: 'closed\n' })
        }
      }
    },
    TEST_MS
  )

  it(
    'stop, restart, open ports and let in by the shell on the member that is not asked itself',
    async () => {
      expect(await done(on(alice, 'gpu2', 'shell -- cat /home/alice/whose'))).toBe('gpu2\n')
      await done(login(alice, 'gpu2', 'sudo /usr/sbin/sshd -p 8888'))
      const opened = await done(on(alice, 'gpu2', 'port 8888'))
      const [, port] = new RegExp(`${beta.nodeAddress}:(\\d+) leads to port 8888`).exec(opened) ?? []
      expect(await done(run(['ssh-keyscan', '-p', port ?? '', beta.nodeAddress]))).toContain('ssh-ed25519')
      await done(on(alice, 'gpu2', 'stop'))
      expect(await login(alice, 'gpu2', 'true')).toMatchObject({ code: 255 })
      expect(await done(login(alice, 'gpu1', 'cat whose'))).toBe('gpu1\n')
      expect(await done(on(alice, 'gpu2', 'stop'))).toMatch(/already/)
    },
    TEST_MS
  )

  it(
    'bring a snapshot from one to the other and back, and rebuild where the user asked',
    async () => {
      const archive = async (node: string): Promise<string> => {
        const taken = await done(on(alice, node, `snapshot ${await tokenFor(node, 'snapshot')}`))
        return /\S+\/alice\/\S+\.tar\.zst/.exec(taken)?.[0] as string
      }
      await done(on(alice, 'gpu1', 'stop'))
      const [first, second] = [await archive('gpu1'), await archive('gpu2')]
      for (const [node, path, whose] of [
        ['gpu1', second, 'gpu2'],
        ['gpu2', first, 'gpu1']
      ] as const) {
        await done(on(alice, node, `recover ${await tokenFor(node, 'recover')} ${path}`))
        await done(on(alice, node))
        expect(await done(login(alice, node, 'cat whose'))).toBe(`${whose}\n`)
        await done(on(alice, node, 'stop'))
      }
      await done(on(alice, 'gpu2', `rebuild ${await tokenFor('gpu2', 'rebuild')} debian-12`))
      await done(on(alice, 'gpu2'))
      expect(await done(login(alice, 'gpu2', 'ls'))).toBe('')
      expect(new Set((await members(1)).split('\n'))).toEqual(new Set(['alpha', '']))
      expect(new Set((await members(2)).split('\n'))).toEqual(new Set(['beta', '']))
    },
    TEST_MS
  )

  it(
    'are told apart when one is down: its commands exit 69 in 5 s, the other one is not held up',
    async () => {
      await stopServer(beta)
      for (const words of ['', 'status', 'stop', 'shell -- true']) {
        const startedAtMs = performance.now()
        const { code, stderr } = await on(bob, 'gpu2', words)
        expect({ words, code, stderr }).toMatchObject({
          code: 69,
          stderr: expect.stringMatching(/node.*does not answer/)
        })
        expect(performance.now() - startedAtMs).toBeLessThan(5000)
      }
      expect(await faults('gpu2')).toMatchObject([{ check: 'lxd', mend: expect.stringContaining('# on beta') }])
      // What runs there runs on.
      expect(await done(login(bob, 'gpu2', 'cat whose'))).toBe('gpu2\n')
      const before = await rules()
      await done(on(bob, 'gpu1', 'restart'))
      const startedAtMs = performance.now()
      await done(on(bob, 'gpu1'))
      expect(performance.now() - startedAtMs).toBeLessThan(2500)
      expect(await rules()).toBe(before)
      await startServer(beta)
      // Until the others have noticed that it is back it is away, whatever words they have for that.
      const answers: Ran[] = []
      const poll = { timeout: 60_000, interval: 1000 }
      await expect.poll(async () => answers[answers.push(await on(bob, 'gpu2')) - 1]?.code, poll).toBe(0)
      expect(answers.filter(({ code }) => code !== 0 && code !== 69)).toEqual([])
    },
    TEST_MS
  )

  it(
    'share one list of rules when each is asked itself, with the addresses that only one of them has',
    async () => {
      await run(['ip', '-n', beta.netns, 'link', 'add', 'own0', 'type', 'veth', 'peer', 'name', 'own1'])
      await run(['ip', '-n', beta.netns, 'address', 'add', `${BETAS_OWN}/32`, 'dev', 'own0'])
      await run(['ip', '-n', beta.netns, 'link', 'set', 'own0', 'up'])
      // LXD 5.0.2 takes a token only where it was made.
      const words = server === 'lxd' ? ['--name', 'berth', '--quiet'] : ['berth', '--quiet']
      const token = (await lxc(beta, 'config', 'trust', 'add', ...words)).trim().split('\n').at(-1)
      await configure(({ gpu1, gpu2 }) => ({ gpu1, gpu2: { ...gpu2, lxd: `https://${beta.httpsAddress}` } }))
      await done(rig.berth('node', 'trust', 'gpu2', '--token', token ?? ''))
      expect(await faults('gpu2')).toEqual([])
      await done(on(bob, 'gpu2'))
      expect(await rules()).toContain(BETAS_OWN)
      expect(await rules()).toContain(rig.lab.nodeAddress)
      const before = await rules()
      await done(on(bob, 'gpu1'))
      await done(on(bob, 'gpu2'))
      expect(await rules()).toBe(before)
      const listener = run([...beta.enter, 'timeout', '20', 'nc', '-lk', '0.0.0.0', '7007'])
      const fromBeta = () => run([...beta.enter, 'nc', '-z', '-w', '2', BETAS_OWN, '7007'])
      await expect.poll(async () => (await fromBeta()).code, { timeout: 10_000 }).toBe(0)
      expect(await login(bob, 'gpu2', `nc -z -w 2 ${BETAS_OWN} 7007`)).toMatchObject({ code: 1 })
      await listener
    },
    TEST_MS
  )
})
