import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Desk } from '../admin/desk.ts'
import { Slapd } from '../slapd.ts'
import { LONG } from '../suite.ts'
import { Client, openSite } from './site.ts'

const TRIES = LONG ? 10_000 : 1000

let slapd: Slapd
let site: Desk & { url: string }

beforeAll(async () => {
  slapd = await Slapd.start()
  await slapd.addPerson('mallory')
  site = await openSite({ ldap: slapd.config() })
})
afterAll(async () => {
  await site?.[Symbol.asyncDispose]()
  await slapd?.[Symbol.asyncDispose]()
})

describe('signing in by password', () => {
  it(`bears ${TRIES.toLocaleString('en')} tries from one address`, async () => {
    const client = new Client(site.url)
    const _csrf = await client.formToken('/')
    const statuses = new Map<number, number>()
    const work = async (count: number) => {
      for (let attempt = 0; attempt < count; attempt++) {
        const { status } = await client.post('/sign-in', { _csrf, login: `user${attempt}`, password: 'x' })
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
      }
    }
    await Promise.all(Array.from({ length: 20 }, () => work(TRIES / 20)))
    expect(statuses.get(429)! + statuses.get(401)! + (statuses.get(503) ?? 0)).toBe(TRIES)
    expect(statuses.get(429)).toBeGreaterThan(TRIES - 200)
    // From another address, by the word of a proxy in front.
    const other = new Client(site.url, '203.0.113.7')
    const fields = { login: 'mallory', password: 'secret of mallory' }
    expect((await other.submit('/', '/sign-in', fields)).status).toBe(303)
  }, 180_000)
})
