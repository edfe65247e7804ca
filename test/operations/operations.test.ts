import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openDatabase, type Database } from '../../src/db/open.ts'
import { Users, type User } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
import { listRows } from '../../src/operations/journal-rows.ts'
import { Operations } from '../../src/operations/operations.ts'

let directory: string
let database: Database
let operations: Operations
let alice: User

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-operations-'))
  database = openDatabase(join(directory, 'berth.sqlite'))
  operations = new Operations(database)
  alice = new Users(database, { from: 22000, to: 22003, exclude: [] }).add('alice')
})
afterEach(() => {
  database.close()
  rmSync(directory, { recursive: true })
})

const nothing = () => {}
const rows = () => database.prepare('SELECT kind, outcome FROM operations ORDER BY id').all()

describe('operations', () => {
  it('run one at a time on a container; another kind is told what runs', async () => {
    const gate = Promise.withResolvers<void>()
    const starting = operations.run(alice, 'gpu1', 'start', nothing, async report => {
      report('waiting for sshd')
      await gate.promise
    })
    expect(() => operations.run(alice, 'gpu1', 'stop', nothing, async () => {})).toThrow(/start.*waiting for sshd/)
    await operations.run(alice, 'gpu2', 'stop', nothing, async () => {})
    gate.resolve()
    await starting
    await operations.run(alice, 'gpu1', 'stop', nothing, async () => {})
    expect(rows()).toEqual([
      { kind: 'start', outcome: 'done' },
      { kind: 'stop', outcome: 'done' },
      { kind: 'stop', outcome: 'done' }
    ])
  })

  it('let the same kind asked twice join, with the progress so far', async () => {
    const gate = Promise.withResolvers<void>()
    let runs = 0
    const action = async (report: (step: string) => void) => {
      runs++
      report('one')
      await gate.promise
      report('two')
      return 'result'
    }
    const heard: string[] = []
    const first = operations.run(alice, 'gpu1', 'start', nothing, action)
    const second = operations.run(alice, 'gpu1', 'start', step => heard.push(step), action)
    expect(operations.running(alice, 'gpu1')).toMatchObject({ kind: 'start', step: 'one' })
    gate.resolve()
    expect(await Promise.all([first, second])).toEqual(['result', 'result'])
    expect(runs).toBe(1)
    expect(heard).toEqual(['one', 'two'])
    expect(operations.running(alice, 'gpu1')).toBeUndefined()
  })

  it('free the container when they fail, and note the reason', async () => {
    await expect(
      operations.run(alice, 'gpu1', 'start', nothing, async () => {
        throw new UserError('start-failed')
      })
    ).rejects.toThrow()
    await operations.run(alice, 'gpu1', 'stop', nothing, async () => {})
    expect(rows()).toEqual([
      { kind: 'start', outcome: 'start-failed' },
      { kind: 'stop', outcome: 'done' }
    ])
  })

  it('left open by a dead process are closed at the next start', () => {
    database
      .prepare("INSERT INTO operations (user_id, node, kind, started_at_ms) VALUES (?, 'gpu1', 'register', 1)")
      .run(alice.id)
    expect(operations.takeOver()).toEqual({ closed: 1, unresolved: 0 })
    expect(rows()).toEqual([{ kind: 'register', outcome: 'interrupted' }])
  })

  it('that entered a phase keep their container after a crash until they are resolved, tried again until that succeeds', async () => {
    const crashed = operations.run(alice, 'gpu1', 'rebuild', nothing, (_report, journal) => {
      journal.enter('making', { made: 'one' })
      return new Promise<void>(() => {})
    })
    expect(crashed).toBeInstanceOf(Promise)
    const next = new Operations(database)
    expect(next.takeOver()).toEqual({ closed: 0, unresolved: 1 })
    expect(() => next.run(alice, 'gpu1', 'rebuild', nothing, async () => {})).toThrow(/rebuild.*interrupted/)
    await next.run(alice, 'gpu2', 'stop', nothing, async () => {})
    let tries = 0
    next.resolveWith('rebuild', async ({ phase, details }) => {
      expect({ phase, details }).toEqual({ phase: 'making', details: { made: 'one' } })
      if (++tries === 1) throw new Error('the node sleeps')
      return 'kept the old one'
    })
    next.resolveInterrupted()
    await expect.poll(() => listRows(database, 0)).toMatchObject([{ user: 'alice', fault: 'the node sleeps' }])
    await expect.poll(() => next.running(alice, 'gpu1'), { timeout: 5000 }).toBeUndefined()
    await next.run(alice, 'gpu1', 'stop', nothing, async () => {})
    expect(listRows(database, 9).map(({ kind, outcome }) => [kind, outcome])).toEqual([
      ['stop', 'done'],
      ['stop', 'done'],
      ['rebuild', 'interrupted: kept the old one']
    ])
  })

  it('that fail after they entered a phase are put right before whoever asked is told', async () => {
    operations.resolveWith('rebuild', async () => 'kept the old one')
    await expect(
      operations.run(alice, 'gpu1', 'rebuild', nothing, async (_report, journal) => {
        journal.enter('making')
        throw new UserError('cannot-create')
      })
    ).rejects.toThrow()
    expect(rows()).toEqual([{ kind: 'rebuild', outcome: 'cannot-create: kept the old one' }])
    expect(operations.running(alice, 'gpu1')).toBeUndefined()
  })

  it('let go of the container while they write its archive, of which there is one at a time', async () => {
    const gate = Promise.withResolvers<void>()
    const archiving = operations.run(alice, 'gpu1', 'snapshot', nothing, (_report, journal) => {
      journal.release()
      return gate.promise
    })
    await operations.run(alice, 'gpu1', 'start', nothing, async () => {})
    expect(operations.archiving(alice, 'gpu1')).toMatchObject({ kind: 'snapshot' })
    const again = () =>
      operations.run(alice, 'gpu1', 'snapshot', nothing, async () => {}, { join: false, alsoArchive: true })
    expect(again).toThrow(/snapshot/)
    gate.resolve()
    await archiving
    await again()
  })

  it('are waited for at shutdown, and no new ones begin', async () => {
    const gate = Promise.withResolvers<void>()
    const running = operations.run(alice, 'gpu1', 'start', nothing, () => gate.promise)
    let closed = false
    const closing = operations.close().then(() => (closed = true))
    expect(() => operations.run(alice, 'gpu2', 'start', nothing, async () => {})).toThrow(/shutting down/)
    expect(closed).toBe(false)
    gate.resolve()
    await running
    await closing
  })
})
