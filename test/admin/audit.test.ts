import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { expect, it } from 'vitest'
import { openDesk } from './desk.ts'

const DAY_MS = 24 * 3600_000

it('what is older than audit.keep is forgotten, but for what has not ended', async () => {
  await using desk = await openDesk({ audit: { keep: '30d' } })
  expect(await desk.berth(['user', 'add', 'alice'])).toMatchObject({ code: 0 })
  const database = new Sqlite(join(desk.stateDir, 'berth.sqlite'))
  const typed = database.prepare(
    `INSERT INTO audit (at_ms, session, login, user, address, node, words) VALUES (?, 'x', 'alice', 'alice', '::1', 'gpu1', ?)`
  )
  const done = database.prepare(
    `INSERT INTO operations (user_id, node, kind, started_at_ms, finished_at_ms, phase)
     SELECT id, 'gpu1', ?, ?, ?, ? FROM users`
  )
  const days = (ago: number) => Date.now() - ago * DAY_MS
  typed.run(days(31), 'status')
  typed.run(days(29), 'help')
  done.run('start', days(31), days(31), null)
  done.run('recover', days(31), null, 'swapping')
  done.run('stop', days(29), days(29), null)
  database.close()

  const words = async () => (await desk.json<{ words: string }[]>('audit')).map(row => row.words)
  const kinds = async () => (await desk.json<{ kind: string }[]>('operations', '--limit', '10')).map(({ kind }) => kind)
  expect(await words()).toEqual(['status', 'help'])
  expect(await kinds()).toEqual(['stop', 'recover', 'start'])
  await desk.serve()
  expect(await words()).toEqual(['help'])
  expect(await kinds()).toEqual(['stop', 'recover'])
})
