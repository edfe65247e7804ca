import Sqlite from 'better-sqlite3'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startRig, type Member, type Rig } from '../rig.ts'
import { Slapd } from '../slapd.ts'

/* What somebody loses, over SSH, whom the lab's directory does not let in any more. */

let slapd: Slapd
let rig: Rig
let alice: Member

beforeAll(async () => {
  slapd = await Slapd.start()
  for (const uid of ['alice', 'bob']) await slapd.addPerson(uid)
  rig = await startRig({ config: { ldap: slapd.config({ recheck: '2s' }) } })
  alice = await rig.addRunningMember('alice')
  await rig.addMember('bob')
  // As their first sign-in to the web pages leaves it.
  const database = new Sqlite(join(rig.directory, 'state/berth.sqlite'), { timeout: 5000 })
  database.prepare('INSERT INTO domain_accounts (user_id, login) SELECT id, name FROM users').run()
  database.close()
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  await slapd[Symbol.asyncDispose]()
})

describe('the lab’s directory', () => {
  const enter = async () => [(await alice.manage('status')).code, (await alice.login('true')).code]

  it('shuts out of the manage endpoints and the container, which goes on running, and lets back in', async () => {
    expect(await enter()).toEqual([0, 0])
    await slapd.setInGroup('alice', false)
    await expect.poll(enter, { timeout: 15_000, interval: 500 }).toEqual([255, 255])
    expect(await rig.lxc('list', 'alice', '--format', 'csv', '--columns', 's')).toMatchObject({ stdout: 'RUNNING\n' })
    const enabled = await rig.berth('user', 'enable', 'alice')
    expect(enabled).toMatchObject({ code: 77, stderr: expect.stringContaining('directory') as string })
    await slapd.setInGroup('alice', true)
    await expect.poll(enter, { timeout: 15_000, interval: 500 }).toEqual([0, 0])
  })

  it('that is down changes nothing for whoever has a key', async () => {
    await slapd.down()
    await expect.poll(() => rig.log.join('\n'), { timeout: 10_000 }).toContain('could not be asked again')
    expect(await enter()).toEqual([0, 0])
    await slapd.up()
  })
})
