import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse, stringify } from 'yaml'
import { freePort } from '../free-port.ts'
import { run, startRig, type Member, type Ran, type Rig } from '../rig.ts'
import { describeTree, makeTree, roundTimes } from '../snapshots/tree.ts'
import { itLong, SERVERS } from '../suite.ts'

const TOKEN = /\b[0-9A-HJKMNP-TV-Z]{26}\b/

describe.each(SERVERS)('a container on %s', server => {
  let rig: Rig
  let alice: Member
  let nas: string

  beforeAll(async () => {
    nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
    rig = await startRig({ server, config: { snapshots: { dir: nas }, recovery: { keepReplaced: '1h' } } })
    await addNode(rig, 'gpu2')
    alice = await rig.addRunningMember('alice')
  })
  afterAll(async () => {
    await rig[Symbol.asyncDispose]()
    rmSync(nas, { recursive: true })
  })

  const on = (node: string, words: string) => run(['ssh', '-F', alice.sshConfig, `${node}-manage`, words])
  const inside = async (script: string): Promise<string> => {
    const ran = await run(['ssh', '-F', alice.sshConfig, 'gpu1', 'sudo sh'], { input: script })
    expect(ran, ran.stderr).toMatchObject({ code: 0, stderr: '' })
    return ran.stdout
  }
  const start = async () => {
    const started = await alice.manage()
    expect(started, started.stderr).toMatchObject({ code: 0 })
  }
  const tokenFor = async (words: string, node = 'gpu1'): Promise<string> => tokenIn(await on(node, words))

  // LXD 5.0 writes access lists into its archives in a form that tar, which it unpacks them with, does not read.
  const comparable = (description: string) =>
    server === 'lxd' ? roundTimes(description).replaceAll(/^.* system\.posix_acl_.*\n/gm, '') : roundTimes(description)
  let tree: string
  let archive: string

  it('is replaced by nobody while it runs', async () => {
    for (const words of ['rebuild', 'recover 00000000000000000000000000 x']) {
      const { code, stderr } = await alice.manage(words)
      expect({ words, code }, stderr).toEqual({ words, code: words === 'rebuild' ? 75 : 77 })
    }
  })

  it('has a tree of everything', async () => {
    await inside(makeTree(300, 8))
    tree = comparable(await inside(describeTree))
    expect(tree).toMatch(/capable security.capability/)
    if (server === 'incus') expect(tree).toMatch(/owned system.posix_acl_access/)
    expect(await alice.manage('stop --timeout 5')).toMatchObject({ code: 0 })
    const taken = await alice.manage(`snapshot ${await tokenFor('snapshot')}`)
    expect(taken, taken.stderr).toMatchObject({ code: 0 })
    archive = /\S+\/alice\/\S+\.tar\.zst/.exec(taken.stdout)?.[0] as string
    expect(archive).toBeDefined()
  })

  it('is rebuilt: fresh files, the same keys, port and host identity', async () => {
    const offered = await alice.manage('rebuild')
    expect(offered.stdout).toMatch(/home directory/)
    const line = `rebuild ${tokenIn(offered)} debian-12`
    expect(await alice.manage(line.replace('rebuild', 'snapshot').replace(' debian-12', ''))).toMatchObject({
      code: 77
    })
    expect(await alice.manage(line.replace('debian-12', 'no-such'))).toMatchObject({ code: 64 })
    // One token, two who come with it: the second hears that it is spent.
    const both = await Promise.all([alice.manage(line), alice.manage(line)])
    expect(both.map(({ code }) => code).toSorted((one, other) => one - other)).toEqual([0, 77])
    await start()
    expect(await inside('ls -d /tree 2>/dev/null || echo none; hostname')).toBe('none\nalice\n')
    expect(await alice.login('id -un; sudo id -u')).toMatchObject({ stdout: 'alice\n0\n', stderr: '' })
  })

  it('is recovered: everything is as it was', async () => {
    await alice.manage('stop --timeout 5')
    const offered = await alice.manage('recover')
    expect(offered.stdout).toContain(archive)
    const token = tokenIn(offered)
    for (const path of [`../alice/${basename(archive)}`, archive.replace('/alice/', '/bob/'), '/etc/passwd']) {
      expect(await alice.manage(`recover ${token} ${path}`)).toMatchObject({ code: 64 })
    }
    const recovered = await alice.manage(`recover ${token} ${basename(archive)}`)
    expect(recovered, recovered.stderr).toMatchObject({ code: 0 })
    await start()
    expect(comparable(await inside(describeTree))).toBe(tree)
  })

  // The rest is berth's own doing, and the same with both.
  if (server === 'incus') return

  it('comes back by --undo, and again', async () => {
    await alice.manage('stop --timeout 5')
    expect(await alice.manage('recover --undo')).toMatchObject({ code: 0 })
    expect((await alice.manage('status')).stdout).toMatch(/kept +1 replaced container/)
    const listed = JSON.parse((await rig.berth('operations', '--limit', '1', '--json')).stdout) as unknown
    expect(listed).toMatchObject([{ user: 'alice', node: 'gpu1', kind: 'undo', outcome: 'done' }])
    await start()
    expect(await inside('ls -d /tree 2>/dev/null || echo none')).toBe('none\n')
    await alice.manage('stop --timeout 5')
    expect(await alice.manage('recover --undo')).toMatchObject({ code: 0 })
    await start()
    expect(comparable(await inside(describeTree))).toBe(tree)
  })

  itLong('is recovered on another node', async () => {
    await alice.manage('stop --timeout 5')
    const registered = await run(['ssh', '-F', alice.sshConfig, 'register@gpu2-manage', 'alice'])
    expect(registered, registered.stderr).toMatchObject({ code: 0 })
    await on('gpu2', 'stop --timeout 5')
    const recovered = await on('gpu2', `recover ${await tokenFor('recover', 'gpu2')} ${archive}`)
    expect(recovered, recovered.stderr).toMatchObject({ code: 0 })
    expect(await on('gpu2', 'start')).toMatchObject({ code: 0 })
    const moved = await run(['ssh', '-F', alice.sshConfig, 'gpu2', 'sudo sh'], { input: describeTree })
    expect(moved).toMatchObject({ code: 0, stderr: '' })
    expect(comparable(moved.stdout)).toBe(tree)
  })
})

function tokenIn({ stdout, stderr, code }: Ran): string {
  expect(code, stderr).toBe(0)
  return TOKEN.exec(stdout)?.[0] as string
}

/** Another node on the same server: a project and a bridge of its own. */
async function addNode(rig: Rig, name: string): Promise<void> {
  const config = parse(readFileSync(rig.configPath, 'utf8')) as { nodes: Record<string, Record<string, unknown>> }
  const { gpu1 } = config.nodes
  const managePort = await freePort(rig.lab.hostAddress)
  config.nodes[name] = { ...gpu1, managePort, project: `${rig.project}-2`, network: `${rig.network}b` }
  writeFileSync(rig.configPath, stringify(config))
  await rig.end()
  await rig.serve()
}
