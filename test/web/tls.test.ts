import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Desk } from '../admin/desk.ts'
import { run } from '../rig.ts'
import { addMember, linkFor, openSite } from './site.ts'

let directory: string
let cert: string
let key: string

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'berth-tls-'))
  cert = join(directory, 'cert.pem')
  key = join(directory, 'key.pem')
  const made = await run([
    ...['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'],
    ...['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert]
  ])
  expect(made.code, made.stderr).toBe(0)
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** What curl, which knows the certificate, gets to see: status line and headers. */
async function head(url: string, ...options: string[]): Promise<string> {
  const { code, stdout, stderr } = await run([
    'curl',
    '-sS',
    '-D',
    '-',
    '-o',
    '/dev/null',
    '--cacert',
    cert,
    ...options,
    url
  ])
  expect(code, stderr).toBe(0)
  return stdout
}

describe('HTTPS by berth itself', () => {
  let site: Desk & { url: string }
  let https: string
  beforeAll(async () => {
    site = await openSite({ web: { tls: { cert, key } } })
    https = site.url.replace('http:', 'https:')
    await addMember(site, 'alice')
  })
  afterAll(() => site?.[Symbol.asyncDispose]())

  it('answers with the certificate, asks for HTTPS ever after, and speaks no HTTP', async () => {
    const answer = await head(`${https}/`)
    expect(answer).toMatch(/^HTTP\/1\.1 200/)
    expect(answer).toMatch(/strict-transport-security: max-age=15552000/i)
    expect((await run(['curl', '-sS', '--max-time', '5', `${site.url}/`])).code).not.toBe(0)
  })

  it('signs in with cookies that no other host and no plain connection can set or see', async () => {
    const link = await linkFor(site, 'alice')
    expect(link).toMatch(/^https:/)
    const jar = join(directory, 'jar')
    const page = await run(['curl', '-sS', '--cacert', cert, '-c', jar, link])
    const token = /name="_csrf" value="([^"]+)"/.exec(page.stdout)?.[1] ?? ''
    const answer = await head(link, '-b', jar, '-c', jar, '--data-urlencode', `_csrf=${token}`)
    expect(answer).toMatch(/^HTTP\/1\.1 303/)
    expect(answer).toMatch(/set-cookie: __Host-berth=[^;]+;(?=.*Path=\/)(?=.*HttpOnly)(?=.*Secure)(?=.*SameSite=Lax)/i)
    expect((await run(['curl', '-sS', '--cacert', cert, '-b', jar, `${https}/keys`])).stdout).toContain('alice')
  })
})

describe('HTTPS by a proxy in front', () => {
  it('has the same cookies, since publicUrl says so', async () => {
    await using site = await openSite({ web: { publicUrl: 'https://iam.lab.example' } })
    const answer = await head(`${site.url}/sign-in`, '-H', 'x-forwarded-proto: https', '-H', 'host: iam.lab.example')
    expect(answer).toMatch(/set-cookie: __Host-berth-form=[^;]+;(?=.*HttpOnly)(?=.*Secure)/i)
  })
})

it('says what is wrong with the certificate, and does not start', async () => {
  await expect(openSite({ web: { tls: { cert: join(directory, 'none.pem'), key } } })).rejects.toThrow(/none\.pem/)
})
