import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import type { Containers } from '../../src/containers/containers.ts'
import { Members } from '../../src/containers/members.ts'
import { ContainerRecords, type ShutOutOwed } from '../../src/containers/records.ts'
import { Invites } from '../../src/directory/invites.ts'
import type { User } from '../../src/directory/users.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { type LabContainers, openLabContainers } from './lab-containers.ts'
import { later } from '../suite.ts'

/* What is owed to a disabled member's containers. No container has to be there for it. */

const nothing = () => {}

let lab: LabContainers
let alice: User
let bob: User
/** As they are while the node does not answer. */
let away: Containers
let gone: LxdClient

beforeAll(async () => {
  lab = await openLabContainers()
  const { bridge } = await lab.containers.ensureNode(lab.node)
  alice = lab.users.add('alice')
  bob = lab.users.add('bob')
  for (const user of [alice, bob]) new ContainerRecords(lab.database).claim(user, 'gpu1', 'debian-12', bridge)
  gone = new LxdClient({ url: `unix://${lab.directory}/none.socket`, project: lab.node.project })
  away = lab.open(lab.config, undefined, gone)
})
afterAll(async () => {
  await gone.close()
  await lab[Symbol.asyncDispose]()
})
beforeEach(() => {
  for (const user of [alice, bob]) {
    lab.users.setState(user, 'enabled')
    lab.containers.oweShutOut(user, undefined)
  }
})

/** A `restart` that lasts until `end`. */
function restartAlice(): { end: () => void; restart: Promise<void> } {
  const { promise, resolve: end } = Promise.withResolvers<void>()
  onTestFinished(() => end())
  return { end, restart: lab.containers.change(alice, lab.node, 'restart', nothing, () => promise) }
}

const owed = (user: User): ShutOutOwed | undefined => lab.containers.parts.records.need(user, 'gpu1').shutOutOwed

describe('who is to be shut out', () => {
  it('is, though somebody before is busy', async () => {
    const { end, restart } = restartAlice()
    for (const user of [alice, bob]) lab.containers.oweShutOut(lab.users.setState(user, 'disabled'), 'stop')
    lab.containers.keepShuttingOut()
    onTestFinished(() => lab.containers.close())
    await expect.poll(() => owed(bob), { timeout: 5000 }).toBeUndefined()
    expect(owed(alice)).toBe('stop')
    end()
    await restart
    await expect.poll(() => owed(alice), { timeout: 40_000 }).toBeUndefined()
  })

  it('is stopped as an admin asked, whatever the directory says while the node is away', async () => {
    const disabled = lab.users.setState(alice, 'disabled')
    expect(await away.disable(disabled)).toMatchObject([{ outcome: 'not changed' }])
    expect(await away.disable(disabled, { keepRunning: true })).toMatchObject([{ outcome: 'not changed' }])
    expect(owed(alice)).toBe('stop')
  })

  it('is stopped also by whoever asks while the forwards alone are being closed', async () => {
    const disabled = lab.users.setState(alice, 'disabled')
    lab.containers.parts.records.setShouldRun(alice, 'gpu1', true)
    await Promise.all([lab.containers.disable(disabled, { keepRunning: true }), lab.containers.disable(disabled)])
    expect(lab.containers.parts.records.need(alice, 'gpu1')).toMatchObject({ shouldRun: false, shutOutOwed: undefined })
  })

  it('is not, once let in again', async () => {
    away.oweShutOut(alice, 'stop')
    away.keepShuttingOut()
    onTestFinished(() => away.close())
    await expect.poll(() => owed(alice), { timeout: 5000 }).toBeUndefined()
  })

  it('is not opened by an `enable` that has its turn after the next `disable`', async () => {
    const { end, restart } = restartAlice()
    const enable = later(lab.containers.enable(alice))
    lab.users.setState(alice, 'disabled')
    end()
    await restart
    expect(await enable).toEqual([{ node: 'gpu1', outcome: 'disabled again' }])
  })

  it('is disabled in the same moment as that is noted', async () => {
    const { database, users } = lab
    const archives = { needRemovable: async () => {}, removeAll: async () => true }
    const seen: unknown[] = []
    const hangUp = () => seen.push(owed(alice), users.byId(alice.id)?.state)
    const invites = new Invites(database, users, lab.keys)
    const members = new Members({ database, users, invites, containers: away, archives, hangUp })
    await members.disable(alice)
    expect(seen).toEqual(['stop', 'disabled'])
    // The power fails at the second of the two.
    users.setState(bob, 'enabled')
    database.exec(`CREATE TEMP TRIGGER cut BEFORE UPDATE ON users BEGIN SELECT RAISE(ABORT, 'cut'); END`)
    await expect(members.disable(bob)).rejects.toThrow('cut')
    database.exec('DROP TRIGGER cut')
    expect([owed(bob), users.byId(bob.id)?.state]).toEqual([undefined, 'enabled'])
  })
})
