import { mkdtempSync, rmSync, statSync, writeFileSync, cpSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MIGRATIONS_DIRECTORY, openDatabase } from '../../src/db/open.ts'
import type { UserError } from '../../src/errors.ts'

let directory: string
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'berth-db-'))))
afterEach(() => rmSync(directory, { recursive: true }))

describe('the database', () => {
  it('is made for its owner alone, in WAL, with foreign keys, and opens twice at once', () => {
    const path = join(directory, 'berth.sqlite')
    const first = openDatabase(path)
    const second = openDatabase(path)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(statSync(`${path}-wal`).mode & 0o777).toBe(0o600)
    expect(first.pragma('journal_mode', { simple: true })).toBe('wal')
    expect(first.pragma('foreign_keys', { simple: true })).toBe(1)
    first.prepare("INSERT INTO users (name, fixed_port, created_at_ms) VALUES ('alice', 22000, 1)").run()
    expect(second.prepare('SELECT name FROM users').pluck().all()).toEqual(['alice'])
    first.close()
    second.close()
  })

  it('has STRICT tables only', () => {
    const database = openDatabase(join(directory, 'berth.sqlite'))
    const tables = database
      .prepare("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'")
      .all()
    expect(tables.length).toBeGreaterThan(5)
    expect(tables.filter(table => (table as { strict: number }).strict !== 1)).toEqual([])
    database.close()
  })

  it('refuses a database that a newer berth wrote, and leaves it alone', () => {
    const path = join(directory, 'berth.sqlite')
    const newer = openDatabase(path)
    newer.pragma('user_version = 900')
    newer.close()
    expect(() => openDatabase(path)).toThrowError(expect.objectContaining({ reason: 'newer-database' }) as UserError)
    expect(() => openDatabase(path)).toThrow(/900/)
  })

  it('keeps the old state when a migration fails half-way', () => {
    const path = join(directory, 'berth.sqlite')
    const old = openDatabase(path)
    const version = old.pragma('user_version', { simple: true }) as number
    old.prepare("INSERT INTO users (name, fixed_port, created_at_ms) VALUES ('alice', 22000, 1)").run()
    old.close()
    const migrations = join(directory, 'migrations')
    cpSync(MIGRATIONS_DIRECTORY, migrations, { recursive: true })
    writeFileSync(
      join(migrations, '099-broken.sql'),
      'CREATE TABLE half (id INTEGER) STRICT; DELETE FROM users; SELECT * FROM no_such_table;'
    )
    expect(() => openDatabase(path, migrations)).toThrow(/no_such_table/)
    const again = openDatabase(path)
    expect(again.pragma('user_version', { simple: true })).toBe(version)
    expect(again.prepare('SELECT name FROM users').pluck().all()).toEqual(['alice'])
    expect(again.prepare("SELECT name FROM sqlite_master WHERE name = 'half'").all()).toEqual([])
    again.close()
  })
})
