import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openDatabase, type Database } from '../../src/db/open.ts'
import { Users, type User } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
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
    expect(operations.closeInterrupted()).toBe(1)
    expect(rows()).toEqual([{ kind: 'register', outcome: 'interrupted' }])
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
