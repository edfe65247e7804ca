import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, stopServer } from '../lab/server.ts'
import { startRig, type Member, type Rig } from '../rig.ts'

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
    await startServer(rig.lab)
    await expect.poll(async () => (await alice.manage('status')).code, { timeout: 20_000, interval: 500 }).toBe(0)
    expect(await alice.manage('start')).toMatchObject({ code: 0 })
    expect(await alice.login('echo up')).toMatchObject({ stdout: 'up\n' })
    expect(rig.pid).toBe(pid)
  })

  it('is managed by a daemon that started while LXD was down', async () => {
    await rig.end()
    await stopServer(rig.lab)
    await rig.serve()
    expect(await alice.manage('status')).toMatchObject({ code: 69 })
    await startServer(rig.lab)
    await expect.poll(async () => (await alice.manage('start')).code, { timeout: 60_000, interval: 500 }).toBe(0)
    expect(await alice.login('echo up')).toMatchObject({ stdout: 'up\n' })
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
