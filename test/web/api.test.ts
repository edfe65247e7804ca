import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Desk, makeKey } from '../admin/desk.ts'
import { type Client, clientOf, openSite } from './site.ts'

let site: Desk & { url: string }
let alice: Client
let boss: Client

beforeAll(async () => {
  site = await openSite({ web: { admins: ['boss'] } })
  alice = await clientOf(site, 'alice')
  boss = await clientOf(site, 'boss')
})
afterAll(() => site?.[Symbol.asyncDispose]())

async function tokenOf(client: Client, scope: string): Promise<string> {
  const answer = await client.submit('/access-tokens', '/access-tokens/create', {
    name: `for ${scope}`,
    scope,
    days: '1'
  })
  return /berth_pat_[\w-]+/.exec(await answer.text())![0]
}

/** A request with an access token, as a script makes it. */
async function call(token: string, method: string, path: string, body?: object) {
  const answer = await fetch(site.url + path, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) })
  })
  return { status: answer.status, json: (await answer.json()) as Record<string, unknown> & Record<string, string>[] }
}

interface OpenApi {
  openapi: string
  paths: Record<string, Record<string, { summary: string; responses: Record<string, unknown>; security?: unknown }>>
}
const describeApi = async () => (await (await fetch(`${site.url}/api/docs/json`)).json()) as OpenApi

describe('the API', () => {
  it('lets a script add, list and remove keys with a token', async () => {
    const token = await tokenOf(alice, 'write')
    const pub = readFileSync(await makeKey(site.directory, 'script'), 'utf8')
    const second = readFileSync(await makeKey(site.directory, 'second'), 'utf8')
    const added = await call(token, 'POST', '/api/v1/keys', { keys: `${pub}\n${second}` })
    expect(added).toMatchObject({ status: 200, json: { added: [{ comment: 'script' }, { comment: 'second' }] } })
    const { json: list } = await call(token, 'GET', '/api/v1/keys')
    expect(list.map(key => key['comment'])).toEqual(['script', 'second'])
    expect(list[0]).not.toHaveProperty('blob')
    const { fingerprint } = list[0] as { fingerprint: string }
    expect(await call(token, 'DELETE', `/api/v1/keys/${encodeURIComponent(fingerprint)}`)).toMatchObject({
      status: 200,
      json: { removed: { comment: 'script' } }
    })
    const last = encodeURIComponent(list[1]!['fingerprint']!)
    expect(await call(token, 'DELETE', `/api/v1/keys/${last}`)).toMatchObject({
      status: 409,
      json: { error: 'last-key' }
    })
    expect(await call(token, 'POST', '/api/v1/keys', { keys: 'rubbish' })).toMatchObject({
      status: 422,
      json: { error: 'bad-key' }
    })
  })

  it('lists the snapshots, as the page does: of the member alone, and escaped', async () => {
    const database = new Sqlite(join(site.stateDir, 'berth.sqlite'), { timeout: 5000 })
    database
      .prepare(
        `INSERT INTO snapshots (user_id, node, name, template, note, created_at_ms, size_bytes, uncompressed_bytes, sha256, compression,
           instance, server, took_ms)
         SELECT id, 'gpu1', 'alice-gpu1.tar.zst', 'debian-12', '<b>bold</b>', 1, 5368709120, 6, 'ab', 'zstd', 'alice', 'LXD 5.0.2', 1
         FROM users WHERE name = 'alice'`
      )
      .run()
    database.close()
    const listed = { name: 'alice-gpu1.tar.zst', node: 'gpu1', note: '<b>bold</b>', sizeBytes: 5 * 2 ** 30 }
    expect(await call(await tokenOf(alice, 'read'), 'GET', '/api/v1/snapshots')).toMatchObject({ json: [listed] })
    expect(await call(await tokenOf(boss, 'read'), 'GET', '/api/v1/snapshots')).toMatchObject({ json: [] })
    const page = await alice.text('/containers')
    expect(page).toMatch(/alice-gpu1\.tar\.zst[^]*5(\.0)? GiB[^]*&lt;b&gt;bold/)
    expect(page).not.toContain('<b>bold')
    expect(await boss.text('/containers')).not.toContain('alice-gpu1')
  })

  it('gives the same config and known hosts as the page', async () => {
    const token = await tokenOf(alice, 'read')
    for (const [path, page] of [
      ['/api/v1/ssh-config', '/ssh-config/config'],
      ['/api/v1/known-hosts', '/ssh-config/known_hosts']
    ] as const) {
      const { json } = await call(token, 'GET', path)
      expect(String(json['text']).trim()).toBe((await alice.text(page)).trim())
    }
    expect(await call(token, 'GET', '/api/v1/containers')).toMatchObject({
      json: [{ node: 'gpu1', registered: false }]
    })
    expect(await call(token, 'GET', '/api/v1/containers/nowhere')).toMatchObject({ status: 404 })
  })

  it('holds a token to its scopes, its owner and its life', async () => {
    const read = await tokenOf(alice, 'read')
    expect(await call(read, 'POST', '/api/v1/keys', { keys: 'x' })).toMatchObject({ status: 403 })
    expect(await call(read, 'POST', '/api/v1/containers/gpu1/start')).toMatchObject({ status: 403 })
    const write = await tokenOf(alice, 'write')
    expect(await call(write, 'GET', '/api/v1/users')).toMatchObject({ status: 403 })
    expect(
      (await alice.submit('/access-tokens', '/access-tokens/create', { name: 'x', scope: 'admin', days: '1' })).status
    ).toBe(403)
    const admin = await tokenOf(boss, 'admin')
    expect(await call(admin, 'GET', '/api/v1/users')).toMatchObject({ status: 200, json: { total: 2 } })
    for (const wrong of ['', 'berth_pat_x', `${admin}x`, admin.slice(0, -1)])
      expect(await call(wrong, 'GET', '/api/v1/me')).toMatchObject({ status: 401 })
    // Not for pages, and not for sessions' forms.
    expect(
      (await fetch(`${site.url}/keys`, { headers: { authorization: `Bearer ${read}` }, redirect: 'manual' })).status
    ).toBe(303)
    const page = await alice.text('/access-tokens')
    for (const [, id = ''] of page.matchAll(/name="id" value="(\d+)"/g)) {
      await alice.submit('/access-tokens', '/access-tokens/revoke', { id })
    }
    expect(await call(read, 'GET', '/api/v1/me')).toMatchObject({ status: 401 })
    await site.berth(['user', 'disable', 'boss'])
    expect(await call(admin, 'GET', '/api/v1/me')).toMatchObject({ status: 401 })
    await site.berth(['user', 'enable', 'boss'])
  })

  it('takes a session that shows its form token', async () => {
    const me = (await (await alice.request('/api/v1/me')).json()) as { csrfToken: string }
    const send = (headers: Record<string, string>) =>
      alice.request('/api/v1/keys', {
        method: 'POST',
        body: JSON.stringify({ keys: 'rubbish' }),
        headers: { 'content-type': 'application/json', ...headers }
      })
    expect((await send({})).status).toBe(403)
    expect((await send({ 'x-csrf-token': me.csrfToken })).status).toBe(422)
  })

  it('is described by OpenAPI, every route of it, for everybody to read', async () => {
    const { openapi, paths } = await describeApi()
    expect(openapi).toMatch(/^3\./)
    const routes = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map(method => `${method} ${path}`)
    )
    expect(routes).toContain('delete /api/v1/keys/{fingerprint}')
    expect(routes.length).toBeGreaterThan(18)
    for (const methods of Object.values(paths)) {
      for (const { summary, responses } of Object.values(methods)) {
        expect(summary).not.toBe('')
        expect(responses['200']).toHaveProperty('content')
      }
    }
    const page = await fetch(`${site.url}/api/docs`, { headers: { accept: 'text/html' } })
    const text = await page.text()
    for (const path of Object.keys(paths)) expect(text).toContain(path)
  })

  it('lets in nobody without a session or token, whatever is described', async () => {
    const { paths } = await describeApi()
    for (const [path, methods] of Object.entries(paths)) {
      for (const method of Object.keys(methods)) {
        const answer = await fetch(site.url + path.replaceAll(/\{\w+\}/g, 'gpu1'), { method: method.toUpperCase() })
        expect([401, 403], `${method} ${path}`).toContain(answer.status)
      }
    }
  })
})
