import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openDatabase, type Database } from '../../src/db/open.ts'
import { Invites } from '../../src/directory/invites.ts'
import { Keys } from '../../src/directory/keys.ts'
import { parsePublicKey, type PublicKey } from '../../src/directory/public-key.ts'
import { Users } from '../../src/directory/users.ts'

let directory: string
let database: Database
let users: Users
let keys: Keys
let invites: Invites

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-directory-'))
  database = openDatabase(join(directory, 'berth.sqlite'))
  users = new Users(database, { from: 22000, to: 22003, exclude: [22001] })
  keys = new Keys(database)
  invites = new Invites(database, users, keys)
})
afterEach(() => {
  database.close()
  rmSync(directory, { recursive: true })
})

function makeKey(): PublicKey {
  const raw = Buffer.from(generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' }).x as string, 'base64url')
  const field = (data: Buffer) => Buffer.concat([Buffer.from([0, 0, 0, data.length]), data])
  return parsePublicKey(
    `ssh-ed25519 ${Buffer.concat([field(Buffer.from('ssh-ed25519')), field(raw)]).toString('base64')} test`
  )
}

const reason = (name: string) => expect.objectContaining({ reason: name }) as Error

describe('users', () => {
  it('get the lowest free fixed port, never an excluded one, until none is left', () => {
    expect(['alice', 'bob', 'carol'].map(name => users.add(name).fixedPort)).toEqual([22000, 22002, 22003])
    expect(() => users.add('dave')).toThrow(reason('ports-exhausted'))
  })

  it('let a released port rest for 30 days, unless an admin names it', () => {
    users.remove(users.add('alice'))
    expect(users.add('bob').fixedPort).toBe(22002)
    expect(users.add('carol', { port: 22000 }).fixedPort).toBe(22000)
    database.prepare('UPDATE released_ports SET released_at_ms = released_at_ms - ?').run(31 * 24 * 3600 * 1000)
    users.remove(users.need('carol'))
    database.prepare('UPDATE released_ports SET released_at_ms = released_at_ms - ?').run(31 * 24 * 3600 * 1000)
    expect(users.add('dave').fixedPort).toBe(22000)
  })

  it('refuse a port that is taken, excluded or outside', () => {
    users.add('alice', { port: 22002 })
    for (const port of [22001, 22002, 21999]) expect(() => users.add('bob', { port })).toThrow(reason('port-taken'))
  })

  it.each([
    '',
    'Alice',
    '1alice',
    'alice-',
    'al_ice',
    'a'.repeat(32),
    'register',
    'enroll',
    'root',
    'ubuntu',
    'álice',
    '../x',
    'a b'
  ])('refuse the name %j', name => {
    expect(() => users.add(name)).toThrow(reason('bad-user-name'))
  })
})

describe('keys', () => {
  it('belong to one user', () => {
    const key = makeKey()
    const alice = users.add('alice')
    keys.add(alice, key)
    expect(keys.find(key.fingerprint)?.userId).toBe(alice.id)
    expect(() => keys.add(alice, key)).toThrow(reason('exists'))
    expect(() => keys.add(users.add('bob'), key)).toThrow(reason('key-taken'))
  })

  it('are added all or none', () => {
    const [mine, fresh, foreign] = [makeKey(), makeKey(), makeKey()]
    const alice = users.add('alice')
    keys.add(alice, mine)
    keys.add(users.add('bob'), foreign)
    expect(() => keys.addAll(alice, [fresh, foreign])).toThrow(reason('key-taken'))
    expect(keys.listFor(alice)).toHaveLength(1)
    expect(keys.addAll(alice, [mine, fresh]).map(key => key.fingerprint)).toEqual([fresh.fingerprint])
  })

  it('never go to the last one by mistake', () => {
    const key = makeKey()
    const alice = users.add('alice')
    keys.add(alice, key)
    expect(() => keys.remove(alice, key.fingerprint)).toThrow(reason('last-key'))
    expect(() => keys.remove(alice, 'SHA256:nothing')).toThrow(reason('unknown-key'))
    keys.remove(alice, key.fingerprint, { evenLast: true })
    expect(keys.listFor(alice)).toEqual([])
  })
})

describe('invites', () => {
  it('enrol a proven key once, however the code is typed', () => {
    const alice = users.add('alice')
    const { code } = invites.create(alice)
    expect(code).toMatch(/^[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){3}$/)
    const key = makeKey()
    expect(invites.redeem('alice', code.toLowerCase().replaceAll('-', ''), key)).toMatchObject({
      added: true,
      user: { name: 'alice' }
    })
    expect(keys.find(key.fingerprint)?.userId).toBe(alice.id)
    expect(() => invites.redeem('alice', code, makeKey())).toThrow(reason('invite-invalid'))
  })

  it('keep no code in the database', () => {
    const { code } = invites.create(users.add('alice'))
    const dump = JSON.stringify(database.prepare('SELECT * FROM invites').all())
    expect(dump).not.toContain(code)
    expect(dump).not.toContain(code.replaceAll('-', ''))
  })

  it('are refused when wrong, foreign, expired or replaced, all in the same words', () => {
    const alice = users.add('alice')
    users.add('bob')
    const first = invites.create(alice)
    const second = invites.create(alice)
    expect([first.ended, second.ended]).toEqual([false, true])
    const refusals = [
      () => invites.redeem('alice', '0000-0000-0000-0000', makeKey()),
      () => invites.redeem('bob', second.code, makeKey()),
      () => invites.redeem('nobody', second.code, makeKey()),
      () => invites.redeem('alice', first.code, makeKey())
    ]
    database.prepare('UPDATE invites SET expires_at_ms = 1').run()
    refusals.push(() => invites.redeem('alice', second.code, makeKey()))
    const messages = refusals.map(refusal => {
      expect(refusal).toThrow(reason('invite-invalid'))
      try {
        refusal()
      } catch (error) {
        return JSON.stringify([(error as Error).message, (error as { hint?: string }).hint])
      }
      return ''
    })
    expect(new Set(messages).size).toBe(1)
  })

  it('are not spent by a key that belongs to somebody else', () => {
    const key = makeKey()
    keys.add(users.add('bob'), key)
    const { code } = invites.create(users.add('alice'))
    expect(() => invites.redeem('alice', code, key)).toThrow(reason('key-taken'))
    expect(invites.redeem('alice', code, makeKey()).added).toBe(true)
  })
})
