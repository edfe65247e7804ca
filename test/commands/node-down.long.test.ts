import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDatabase } from '../../src/db/open.ts'
import { listRows } from '../../src/operations/journal-rows.ts'
import { startServer, stopServer } from '../lab/server.ts'
import { run, startRig, type Member, type Ran, type Rig } from '../rig.ts'

let rig: Rig
let alice: Member

beforeAll(async () => {
  rig = await startRig({ ownLab: true })
  alice = await rig.addRunningMember('alice')
})
afterAll(() => rig[Symbol.asyncDispose]())

describe('a node whose LXD is stopped', () => {
  it('makes every command that needs it exit 69 within 5 s and say what to do; the others work', async () => {
    await stopServer(rig.lab)
    for (const words of ['', 'start', 'status', 'status --json', 'stop', 'restart', 'shell -- true', 'register']) {
      const startedAtMs = performance.now()
      const { code, stdout, stderr } = await alice.manage(words)
      expect({ words, code, stdout }).toEqual({ words, code: 69, stdout: '' })
      expect(stderr).toMatch(/node.*does not answer/)
      expect(stderr).toMatch(/admin/)
      expect(performance.now() - startedAtMs).toBeLessThan(5000)
    }
    for (const words of ['help', 'config', 'known-hosts', 'keys'])
      expect(await alice.manage(words)).toMatchObject({ code: 0 })
  })

  it('keeps key changes for later, and says so', async () => {
    const extra = await rig.makeKey('extra')
    const added = await alice.manage('keys add', { input: readFileSync(`${extra}.pub`) })
    expect(added).toMatchObject({ code: 0, stdout: expect.stringMatching(/gpu1: the node does not answer/) as string })
  })

  it('is managed again when LXD is back, by the same daemon', async () => {
    const pid = rig.pid
    const starting = startServer(rig.lab)
    // LXD that takes connections while it still starts is no less away.
    const answers: Ran[] = []
    const poll = { timeout: 20_000, interval: 50 }
    await expect.poll(async () => answers[answers.push(await alice.manage('start')) - 1]?.code, poll).toBe(0)
    expect(answers.filter(({ code }) => code !== 0 && code !== 69)).toEqual([])
    await starting
    expect(await alice.login('echo up')).toMatchObject({ stdout: 'up\n' })
    expect(rig.pid).toBe(pid)
  })

  it('gets from a daemon that started without it what it missed, once it is back', async () => {
    const bob = await rig.addRunningMember('bob')
    // What LXD does not start itself after a power cut is left to berth.
    await rig.lxc('config', 'set', 'alice', 'boot.autostart=false')
    const { stdout: pid } = await rig.lxc('list', 'alice', '--format', 'csv', '--columns', 'p')
    await stopServer(rig.lab)
    const late = await rig.makeKey('late')
    expect(await bob.manage('keys add', { input: readFileSync(`${late}.pub`) })).toMatchObject({ code: 0 })
    await rig.end()
    await run([...rig.lab.enterAll, 'kill', '-KILL', pid.trim()])
    const database = openDatabase(join(rig.directory, 'state', 'berth.sqlite'))
    const taking = { copy: 'alice-Copy-m9x0a1b2', partial: '.partial-1', directory: '/nas/berth' }
    database
      .prepare(
        `INSERT INTO operations (user_id, node, kind, started_at_ms, phase, details)
         SELECT id, 'gpu1', 'snapshot', 1, 'copying', ? FROM users WHERE name = 'alice'`
      )
      .run(JSON.stringify(taking))
    await rig.serve()
    expect(await alice.manage('status')).toMatchObject({ code: 69 })
    await startServer(rig.lab)
    const poll = { timeout: 30_000, interval: 500 }
    await expect.poll(() => alice.login('echo up'), poll).toMatchObject({ stdout: 'up\n' })
    const keys = () => rig.lxc('exec', 'bob', '--', 'cat', '/etc/ssh/berth_keys/bob')
    await expect.poll(async () => (await keys()).stdout, poll).toContain(' late\n')
    const [last, ...before] = listRows(database, 9)
    database.close()
    expect(last).toMatchObject({ user: 'alice', kind: 'start', outcome: 'done' })
    expect(before[0]).toMatchObject({ user: 'alice', kind: 'snapshot', outcome: 'interrupted: nothing was kept' })
  })

  it('shuts a member out who was disabled meanwhile, also when berth was restarted since', async () => {
    await stopServer(rig.lab)
    expect(await rig.berth('user', 'disable', 'alice')).toMatchObject({ code: 75 })
    await rig.end()
    await rig.serve()
    expect(await alice.login('echo still in')).toMatchObject({ stdout: 'still in\n' })
    await startServer(rig.lab)
    const state = async () => (await rig.lxc('list', 'alice', '--format', 'csv', '--columns', 's')).stdout
    await expect.poll(state, { timeout: 60_000, interval: 500 }).toBe('STOPPED\n')
    expect((await rig.lxc('config', 'device', 'list', 'alice')).stdout).not.toContain('ssh')
  })
})
