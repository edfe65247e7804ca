import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Member, type Rig, run, startRig } from '../rig.ts'

let rig: Rig
beforeAll(async () => (rig = await startRig()))
afterAll(() => rig[Symbol.asyncDispose]())

interface Shown {
  fixedPort: number
  keys: { fingerprint: string; comment: string }[]
}
const show = async (name: string) => JSON.parse((await rig.berth('user', 'show', name, '--json')).stdout) as Shown

describe("what an admin does to a member's container", () => {
  let alice: Member

  it('shows it', async () => {
    alice = await rig.addMember('alice')
    expect((await alice.register()).code).toBe(0)
    expect(await show('alice')).toMatchObject({
      containers: [{ node: 'gpu1', status: { state: 'running', faults: [] } }]
    })
    expect((await rig.berth('user', 'list')).stdout).toMatch(/alice +enabled +\d+ +1 +gpu1/)
  })

  it('has a key added or removed count at once', async () => {
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
    const { keys } = await show('alice')
    const fingerprint = keys.find(({ comment }) => comment === 'second')?.fingerprint as string
    expect((await rig.berth('key', 'remove', 'alice', fingerprint)).code).toBe(0)
    expect((await login()).code).not.toBe(0)
  })

  it('shuts a disabled user out and lets an enabled one in again', async () => {
    const disabled = await rig.berth('user', 'disable', 'alice')
    expect(disabled).toMatchObject({ code: 0, stdout: expect.stringContaining('alice on gpu1: stopped') })
    expect((await alice.manage('status')).code).not.toBe(0)
    expect(await show('alice')).toMatchObject({ state: 'disabled', containers: [{ status: { state: 'stopped' } }] })
    expect((await rig.berth('user', 'enable', 'alice')).code).toBe(0)
    expect((await alice.manage('start')).code).toBe(0)
    expect((await alice.login('id -un')).stdout).toBe('alice\n')
  })

  it('leaves the container of a disabled user running without access where that is asked for', async () => {
    const disabled = await rig.berth('user', 'disable', 'alice', '--keep-running')
    expect(disabled.stdout).toContain('runs without access')
    expect((await alice.login('id -un')).code).not.toBe(0)
    expect((await rig.lxc('list', '--format', 'csv', '--columns', 'ns')).stdout).toBe('alice,RUNNING\n')
  })

  it('has every command in the audit', async () => {
    const words = async (...query: string[]) => {
      const { stdout } = await rig.berth('audit', '--json', ...query)
      return (JSON.parse(stdout) as { words: string }[]).map(row => row.words)
    }
    expect(await words('--user', 'alice', '--since', '1h')).toEqual(expect.arrayContaining(['start']))
    expect(await words('--user', 'bob')).toEqual([])
    expect(await words('--since', '2999-01-01')).toEqual([])
  })

  it('deletes it with the user, saying so', async () => {
    const removed = await rig.berth('user', 'remove', 'alice', '--yes')
    expect(removed.stdout).toContain('gpu1 (running)')
    expect(removed.stdout).toContain('alice on gpu1: deleted')
    expect((await rig.lxc('list', '--format', 'csv', '--columns', 'n')).stdout).toBe('')
    expect(JSON.parse((await rig.berth('user', 'list', '--json')).stdout)).toEqual([])
  })
})
