import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Rig, run, startRig } from '../rig.ts'

let rig: Rig
beforeAll(async () => (rig = await startRig()))
afterAll(() => rig[Symbol.asyncDispose]())

const show = async (name: string) => JSON.parse((await rig.berth('user', 'show', name, '--json')).stdout)

describe("what an admin does to a member's container", () => {
  it('takes effect at once, through the daemon', async () => {
    const alice = await rig.addMember('alice')
    expect((await alice.register()).code).toBe(0)
    expect(await show('alice')).toMatchObject({
      containers: [{ node: 'gpu1', status: { state: 'running', faults: [] } }]
    })
    expect((await rig.berth('user', 'list')).stdout).toMatch(/alice +enabled +\d+ +1 +gpu1/)

    const second = await rig.makeKey('second')
    const { fixedPort } = await show('alice')
    // The member's own configuration would offer the first key as well.
    const options = ['IdentitiesOnly=yes', 'IdentityAgent=none', 'BatchMode=yes', 'StrictHostKeyChecking=no']
    const files = ['UserKnownHostsFile=/dev/null', 'LogLevel=ERROR', `IdentityFile=${second}`]
    const flags = [...options, ...files].flatMap(option => ['-o', option])
    const login = () =>
      run(['ssh', '-F', 'none', ...flags, '-p', String(fixedPort), `alice@${rig.lab.nodeAddress}`, 'id', '-un'])
    expect((await login()).code).not.toBe(0)
    const added = await rig.berth('key', 'add', 'alice', `${second}.pub`)
    expect(added.stdout).toContain('alice on gpu1 has the new list of keys')
    expect((await login()).stdout).toBe('alice\n')
    const fingerprint = (await show('alice')).keys.find(
      (key: { comment: string }) => key.comment === 'second'
    ).fingerprint
    expect((await rig.berth('key', 'remove', 'alice', fingerprint)).code).toBe(0)
    expect((await login()).code).not.toBe(0)

    const disabled = await rig.berth('user', 'disable', 'alice')
    expect(disabled).toMatchObject({ code: 0, stdout: expect.stringContaining('alice on gpu1: stopped') })
    expect((await alice.manage('status')).code).not.toBe(0)
    expect(await show('alice')).toMatchObject({ state: 'disabled', containers: [{ status: { state: 'stopped' } }] })

    expect((await rig.berth('user', 'enable', 'alice')).code).toBe(0)
    expect((await alice.manage('start')).code).toBe(0)
    expect((await alice.login('id -un')).stdout).toBe('alice\n')
    expect((await rig.berth('user', 'disable', 'alice', '--keep-running')).stdout).toContain('runs without access')
    expect((await alice.login('id -un')).code).not.toBe(0)
    expect((await rig.lxc('list', '--format', 'csv', '--columns', 'ns')).stdout).toBe('alice,RUNNING\n')

    const audit = JSON.parse((await rig.berth('audit', '--user', 'alice', '--since', '1h', '--json')).stdout)
    expect(audit.map((row: { words: string }) => row.words)).toEqual(expect.arrayContaining(['start']))
    expect(JSON.parse((await rig.berth('audit', '--user', 'bob', '--json')).stdout)).toEqual([])

    const removed = await rig.berth('user', 'remove', 'alice', '--yes')
    expect(removed.stdout).toContain('gpu1 (running)')
    expect(removed.stdout).toContain('alice on gpu1: deleted')
    expect((await rig.lxc('list', '--format', 'csv', '--columns', 'n')).stdout).toBe('')
    expect(JSON.parse((await rig.berth('user', 'list', '--json')).stdout)).toEqual([])
  })
})
