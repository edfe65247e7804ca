import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Desk, endProcess } from '../admin/desk.ts'
import { freePort } from '../free-port.ts'
import { documentedExample } from '../documented.ts'
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
    ...[
      '-subj',
      '/CN=127.0.0.1',
      '-addext',
      'subjectAltName=IP:127.0.0.1,DNS:iam.lab.example',
      '-keyout',
      key,
      '-out',
      cert
    ]
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

describe('HTTPS by nginx in front, as docs/web.md has it', () => {
  const ports = { http: 0, https: 0 }
  let site: Desk & { url: string }
  let nginx: ChildProcess | undefined
  let https: string
  beforeAll(async () => {
    Object.assign(ports, { http: await freePort(), https: await freePort() })
    https = `https://iam.lab.example:${ports.https}`
    site = await openSite({ web: { publicUrl: https } })
    await addMember(site, 'alice')
    await startNginx(readExample(site.url))
  })
  afterAll(async () => {
    if (nginx) await endProcess(nginx, 'SIGQUIT')
    await site?.[Symbol.asyncDispose]()
  })

  /** The words of docs/web.md, with paths and ports of this test. */
  function readExample(behind: string): string {
    let example = documentedExample('nginx', 'proxy_pass')
    const places = {
      'listen 80;': `listen 127.0.0.1:${ports.http};`,
      'listen 443 ssl;': `listen 127.0.0.1:${ports.https} ssl;`,
      '/etc/ssl/iam.crt;': `${cert};`,
      '/etc/ssl/iam.key;': `${key};`,
      'http://127.0.0.1:8080;': `${behind};`
    }
    for (const [place, ours] of Object.entries(places)) {
      expect(example.split(place), place).toHaveLength(2)
      example = example.replace(place, ours)
    }
    return example
  }

  async function startNginx(servers: string): Promise<void> {
    const files = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      name => `${name}_temp_path ${directory}/${name};`
    )
    const path = join(directory, 'nginx.conf')
    writeFileSync(
      path,
      `daemon off; master_process off; pid ${directory}/nginx.pid; error_log ${directory}/nginx.log;
events {}
http { access_log off; ${files.join(' ')}
${servers}}
`
    )
    nginx = spawn('nginx', ['-e', join(directory, 'nginx.log'), '-c', path], { stdio: 'ignore' })
    for (let attempt = 0; !(await tryConnect(ports.https)); attempt++) {
      if (attempt > 100) throw new Error(readFileSync(join(directory, 'nginx.log'), 'utf8'))
      await sleep(100)
    }
  }

  /** curl at a machine of its own address, as nginx sees it. */
  const at = (address: string, ...words: string[]) => [
    ...['curl', '-sS', '--cacert', cert, '--interface', address],
    ...[ports.https, ports.http].flatMap(port => ['--resolve', `iam.lab.example:${port}:127.0.0.1`]),
    ...words
  ]
  const headAt = async (address: string, ...words: string[]) => {
    const { code, stdout, stderr } = await run(at(address, '-D', '-', '-o', '/dev/null', ...words))
    expect(code, stderr).toBe(0)
    return stdout
  }

  it('leads from HTTP to HTTPS', async () => {
    const answer = await headAt('127.0.0.1', `http://iam.lab.example:${ports.http}/keys?lang=zh`)
    expect(answer).toMatch(/^HTTP\/1\.1 301/)
    expect(answer).toMatch(/^location: https:\/\/iam\.lab\.example\/keys\?lang=zh\r$/im)
  })

  it('signs in by a link under the public address, with cookies for HTTPS alone; audit knows the real address', async () => {
    const link = await linkFor(site, 'alice')
    expect(link.startsWith(`${https}/link/`)).toBe(true)
    const jar = join(directory, 'nginx-jar')
    const page = await run(at('127.0.0.5', '-c', jar, link))
    const token = /name="_csrf" value="([^"]+)"/.exec(page.stdout)?.[1] ?? ''
    const spoof = [
      '-H',
      'X-Forwarded-For: 203.0.113.9',
      '-H',
      'X-Forwarded-Proto: http',
      '-H',
      'Forwarded: for=203.0.113.9'
    ]
    const answer = await headAt('127.0.0.5', ...spoof, '-b', jar, '-c', jar, '--data-urlencode', `_csrf=${token}`, link)
    expect(answer).toMatch(/^HTTP\/1\.1 303/)
    expect(answer).toMatch(/^location: \/keys\r$/im)
    expect(answer).toMatch(/strict-transport-security: max-age=15552000/i)
    expect(answer).toMatch(/set-cookie: __Host-berth=[^;]+;(?=.*Path=\/)(?=.*HttpOnly)(?=.*Secure)(?=.*SameSite=Lax)/i)
    expect((await run(at('127.0.0.5', '-b', jar, `${https}/keys`))).stdout).toContain('alice')
    const entries = await site.json<{ words: string; address: string }[]>('audit', '--user', 'alice')
    expect(entries.filter(({ words }) => words.startsWith('sign-in')).map(({ address }) => address)).toEqual([
      '127.0.0.5'
    ])
  })

  it('limits tries by the real address, whatever a visitor says of it, and lets others go on', async () => {
    const guess = (address: string, index: number) =>
      headAt(
        address,
        '-H',
        `X-Forwarded-For: 203.0.113.${index}`,
        '-H',
        `X-Real-IP: 203.0.113.${index}`,
        `${https}/link/wrong`
      )
    const answers: string[] = []
    for (let index = 0; index < 32; index++) answers.push((await guess('127.0.0.7', index)).slice(9, 12))
    expect(answers.filter(status => status === '404')).toHaveLength(30)
    expect(answers.slice(30)).toEqual(['429', '429'])
    expect(await guess('127.0.0.8', 99)).toMatch(/^HTTP\/1\.1 404/)
  })
})

/** Does anything listen there? */
function tryConnect(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  return new Promise(resolve => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
  }).finally(() => socket.destroy()) as Promise<boolean>
}

it('says what is wrong with the certificate, and does not start', async () => {
  await expect(openSite({ web: { tls: { cert: join(directory, 'none.pem'), key } } })).rejects.toThrow(/none\.pem/)
})
