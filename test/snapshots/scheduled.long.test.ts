import { copyFileSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startRig, type Member, type Rig } from '../rig.ts'

interface Entry {
  user: string
  name: string
  scheduled: boolean
  server: string
  note: string
}

let rig: Rig
let nas: string
let bob: Member
let carol: Member

beforeAll(async () => {
  nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
  const schedule = { all: '* * * * *', users: { carol: 'off' } }
  const snapshots = { dir: nas, keepPerUser: 1, keepDaily: 1, keepWeekly: 0, compression: 'gzip', schedule }
  rig = await startRig({ server: 'incus', config: { snapshots } })
  carol = await rig.addMember('carol')
  bob = await rig.addRunningMember('bob')
  expect(await carol.register()).toMatchObject({ code: 0 })
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  rmSync(nas, { recursive: true })
})

const list = async () => JSON.parse((await rig.berth('snapshot', 'list', '--json')).stdout) as Entry[]
const status = async () =>
  JSON.parse((await bob.manage('status --json')).stdout) as { state: string; startedAtMs: number }

describe('scheduled snapshots, on Incus', () => {
  it('are taken of a running container without touching it, and only of those who are to have them', async () => {
    const before = await status()
    await bob.login('echo mine > kept')
    await expect.poll(async () => (await list()).length, { timeout: 150_000, interval: 1000 }).toBeGreaterThan(0)
    const [entry] = (await list()) as [Entry]
    expect(entry).toMatchObject({
      user: 'bob',
      scheduled: true,
      note: '',
      server: expect.stringMatching(/^Incus /) as string
    })
    expect(await status()).toMatchObject({ state: 'running', startedAtMs: before.startedAtMs })
    expect(await rig.berth('snapshot', 'verify')).toMatchObject({ code: 0 })
    // They do not count against the member's own.
    expect((await bob.manage('snapshots')).stdout).toContain('0 of 1 snapshots')
  }, 180_000)

  it('are thinned out, by hand too, and what a dead process left goes with them', async () => {
    await rig.end()
    const [{ name }] = (await list()) as [Entry]
    const older = name.replace('bob-gpu1-', 'bob-gpu1-1')
    copyFileSync(join(nas, 'bob', name), join(nas, 'bob', older))
    copyFileSync(join(nas, 'bob', name), join(nas, 'bob', '.partial-999'))
    const database = new Sqlite(join(rig.directory, 'state/berth.sqlite'))
    database
      .prepare(
        `INSERT INTO snapshots (user_id, node, name, template, scheduled, created_at_ms, size_bytes, uncompressed_bytes, sha256,
                                compression, instance, server, took_ms)
         SELECT user_id, node, ?, template, 1, created_at_ms - 1, size_bytes, uncompressed_bytes, sha256, compression, instance,
                server, took_ms FROM snapshots WHERE name = ?`
      )
      .run(older, name)
    database.close()
    const pruned = await rig.berth('snapshot', 'prune')
    expect(pruned.code, pruned.stderr).toBe(0)
    expect(pruned.stdout).toContain(`Deleted bob/${older}`)
    expect(readdirSync(join(nas, 'bob'))).toEqual([name])
    expect((await list()).map(entry => entry.name)).toEqual([name])
  })
})

describe('a sparse file of terabytes in one container', () => {
  it("is given up in its turn, saying so, and the next member's archive is made", async () => {
    const directory = mkdtempSync(join(tmpdir(), 'berth-nas-'))
    const snapshots = { dir: directory, patience: '5s', schedule: '* * * * *' }
    await using lab = await startRig({ ownLab: true, config: { snapshots } })
    // In the order of their names.
    const alice = await lab.addRunningMember('alice')
    await lab.addRunningMember('bob')
    expect(await alice.login('sudo truncate -s 1000T /sparse')).toMatchObject({ code: 0 })
    const taken = async () => JSON.parse((await lab.berth('snapshot', 'list', '--json')).stdout) as Entry[]
    // LXD packs zeros meanwhile: on a machine with no processor left, bob's is given up as well, and tried again.
    await expect
      .poll(async () => (await taken()).map(({ user }) => user), { timeout: 700_000, interval: 2000 })
      .toContain('bob')
    expect((await taken()).map(({ user }) => user)).not.toContain('alice')
    expect((await lab.berth('operations')).stdout).toMatch(/alice .*It was given up after .* to be expected/)
    expect(lab.log.join('\n')).toMatch(/"user":"alice".*It was given up after/)
    expect(readdirSync(join(directory, 'alice'))).toEqual([])
    // LXD goes on with it, and an orderly end would wait for that.
    await lab.end('SIGKILL')
    rmSync(directory, { recursive: true })
  }, 800_000)
})
