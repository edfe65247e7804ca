import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import type { Browser } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { makeKey, type Desk } from '../admin/desk.ts'
import { Slapd } from '../slapd.ts'
import { enterByLink, launchBrowser, openBrowser } from './browser.ts'
import { addMember, Client, clientOf, linkFor, openSite } from './site.ts'

const EVIL = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`

let slapd: Slapd
let site: Desk & { url: string }
let browser: Browser

beforeAll(async () => {
  slapd = await Slapd.start()
  await slapd.addPerson('mallory', { cn: `Mallory ${EVIL}`, mail: 'mallory@lab.example' })
  await slapd.addPerson('victim')
  // As a proxy in front would: each test is another address, so that no limit of one is another's.
  site = await openSite({ ldap: slapd.config(), web: { admins: ['boss'] } })
  browser = await launchBrowser()
})
afterAll(async () => {
  await browser?.close()
  await site?.[Symbol.asyncDispose]()
  await slapd?.[Symbol.asyncDispose]()
})

/** Whatever was tried, berth answers, and has not had to be started again. */
afterEach(async () => {
  expect((await new Client(site.url).request('/')).status).toBe(200)
})

let address = 0
/** Somebody from an address of their own (X-Forwarded-For is believed from loopback alone). */
const from = () => ({ 'x-forwarded-for': `203.0.113.${(address++ % 250) + 1}` })

const signIn = async (login: string, password: string, headers = from()) => {
  const client = new Client(site.url)
  const answer = await client.post('/sign-in', { _csrf: await client.formToken('/'), login, password }, headers)
  return { client, answer }
}

describe('forms of other sites (CSRF)', () => {
  it('change nothing without a token, with a made-up one, or with one from before signing in', async () => {
    const alice = await clientOf(site, 'alice')
    const stranger = new Client(site.url)
    const tokens = ['', 'made-up', await stranger.formToken('/')]
    for (const _csrf of tokens) {
      for (const path of [
        '/sign-out',
        '/keys/add',
        '/keys/remove',
        '/access-tokens/create',
        '/containers/gpu1/start'
      ]) {
        expect((await alice.post(path, { _csrf, name: 'x', scope: 'read', days: '1' })).status, path).toBe(403)
      }
    }
    expect((await alice.request('/keys')).status).toBe(200)
  })

  it('do not get in with a token of somebody else', async () => {
    const [alice, bob] = [await clientOf(site, 'alice'), await clientOf(site, 'bob')]
    const token = await bob.formToken('/keys')
    alice.plant('berth-form', bob.cookies.get('berth-form')!)
    expect((await alice.post('/sign-out', { _csrf: token })).status).toBe(403)
  })

  it('do not reach the API by a session', async () => {
    const alice = await clientOf(site, 'alice')
    for (const method of ['POST', 'PUT', 'DELETE', 'PATCH']) {
      const answer = await alice.request('/api/v1/keys', {
        method,
        body: '{"keys":"x"}',
        headers: { 'content-type': 'application/json' }
      })
      expect([403, 404], method).toContain(answer.status)
    }
  })
})

describe('sessions', () => {
  it('are not taken over by a cookie planted before signing in (fixation)', async () => {
    const planted = 'a'.repeat(32)
    const victim = new Client(site.url)
    victim.plant('berth', planted)
    await addMember(site, 'carol')
    await victim.enter(await linkFor(site, 'carol'))
    expect(victim.cookies.get('berth')).not.toBe(planted)
    const attacker = new Client(site.url)
    attacker.plant('berth', planted)
    expect((await attacker.request('/keys')).status).toBe(303)
  })

  it('are cookies no script can read and no other site can send along', async () => {
    await addMember(site, 'dora')
    const link = new URL(await linkFor(site, 'dora')).pathname
    const client = new Client(site.url)
    const answer = await client.submit(link, link)
    expect(answer.headers.getSetCookie().find(cookie => cookie.startsWith('berth='))).toMatch(
      /HttpOnly.*SameSite=Lax|SameSite=Lax.*HttpOnly/
    )
  })

  it('end all at once when one signs out, and when the user is disabled', async () => {
    const [one, other] = [await clientOf(site, 'erin'), await clientOf(site, 'erin')]
    await one.submit('/keys', '/sign-out')
    for (const client of [one, other]) expect((await client.request('/keys')).status).toBe(303)
    const again = await clientOf(site, 'erin')
    const { code } = await site.berth(['user', 'disable', 'erin'])
    expect(code).toBe(0)
    expect((await again.request('/keys')).status).toBe(303)
    await site.berth(['user', 'enable', 'erin'])
    expect((await again.request('/keys')).status).toBe(303)
  })

  it('are not kept for visitors, and not in the clear', async () => {
    const database = new Sqlite(join(site.stateDir, 'berth.sqlite'), { readonly: true })
    const count = () => database.prepare('SELECT count(*) FROM web_sessions').pluck().get() as number
    const before = count()
    for (let visit = 0; visit < 20; visit++) await new Client(site.url).request('/')
    expect(count()).toBe(before)
    const alice = await clientOf(site, 'alice')
    database.close()
    const files = ['berth.sqlite', 'berth.sqlite-wal'].map(name => readFileSync(join(site.stateDir, name)))
    expect(Buffer.concat(files).includes(alice.cookies.get('berth')!)).toBe(false)
  })
})

describe('one-time links', () => {
  it('are not used up by being looked at, and work once', async () => {
    await addMember(site, 'fred')
    const link = new URL(await linkFor(site, 'fred')).pathname
    for (let look = 0; look < 3; look++) {
      expect((await new Client(site.url).request(link)).status).toBe(200)
      expect((await new Client(site.url).request(link, { method: 'HEAD' })).status).toBe(200)
    }
    const [first, replay] = [new Client(site.url), new Client(site.url)]
    const token = await replay.formToken(link)
    expect((await first.submit(link, link)).status).toBe(303)
    expect((await replay.post(link, { _csrf: token })).status).toBe(403)
    expect((await replay.request('/keys')).status).toBe(303)
    expect((await replay.request(link)).status).toBe(404)
  })

  it('let in one of many who press the button at the same time', async () => {
    await addMember(site, 'gina')
    const link = new URL(await linkFor(site, 'gina')).pathname
    const clients = Array.from({ length: 10 }, () => new Client(site.url))
    const tokens = await Promise.all(clients.map(client => client.formToken(link)))
    const answers = await Promise.all(clients.map((client, index) => client.post(link, { _csrf: tokens[index]! })))
    expect(answers.filter(({ status }) => status === 303)).toHaveLength(1)
  })

  it('leave no trace of their secrets in log or audit', async () => {
    await addMember(site, 'hugo')
    const link = await linkFor(site, 'hugo')
    await new Client(site.url).enter(link)
    const { stdout } = await site.berth(['audit', '--json'])
    expect(stdout).toContain('sign-in link')
    expect(stdout).not.toContain(link.split('/').at(-1))
  })
})

describe('text that others choose (stored XSS)', () => {
  it('does not steer the terminal of an admin who reads the audit', async () => {
    await signIn('\u009B31mred\u009D0;title\u0007\u202Eover', 'wrong')
    const { stdout } = await site.berth(['audit'])
    expect(stdout).toContain('31mred')
    expect(stdout).not.toMatch(/[\p{Cf}\u0000-\u0009\u000B-\u001F\u007F-\u009F]/u)
  })

  it('is shown and not run: key comments and names of the directory, to their owner and to admins', async () => {
    const { client, answer } = await signIn('mallory', 'secret of mallory')
    expect(answer.status).toBe(303)
    const key = readFileSync(await makeKey(site.directory, 'evil'), 'utf8')
      .split(' ')
      .slice(0, 2)
      .join(' ')
    await client.submit('/keys', '/keys/add', { keys: `${key} ${EVIL}` })
    await addMember(site, 'boss')
    const context = await openBrowser(browser, site.url)
    const page = await context.newPage()
    const faults: string[] = []
    page.on('pageerror', error => faults.push(String(error)))
    page.on('console', message => faults.push(message.text()))
    await enterByLink(page, await linkFor(site, 'boss'))
    for (const path of ['/admin/users?q=mallory', '/admin/audit']) {
      await page.goto(path)
      expect(await page.content()).toContain('mallory')
    }
    const own = await openBrowser(browser, site.url)
    await own.addCookies([...client.cookies].map(([name, value]) => ({ name, value, url: site.url })))
    const mine = await own.newPage()
    await mine.goto('/keys')
    expect(await mine.locator('main').innerText()).toContain('<img src=x onerror=')
    for (const shown of [page, mine]) {
      expect(await shown.title()).not.toBe('owned')
      expect(await shown.locator('main img, main script').count()).toBe(0)
    }
    expect(faults).toEqual([])
    await context.close()
    await own.close()
  })

  it('would not run either if it got in: the policy lets no inline script run', async () => {
    const context = await openBrowser(browser, site.url)
    const page = await context.newPage()
    await page.goto('/')
    await page.evaluate(`{
      const script = document.createElement('script')
      script.textContent = "document.title = 'owned'"
      document.body.append(script)
    }`)
    expect(await page.title()).not.toBe('owned')
    await context.close()
  })
})

describe('signing in by password', () => {
  it.each(['*', 'victim)(uid=*', '*)(objectClass=*', 'victim\0', 'cn=root,dc=lab,dc=example', '(|(uid=*))'])(
    'is refused for the name %j (LDAP injection)',
    async login => {
      const passwords = ['secret of victim', 'secret of mallory', '*']
      const tried = await Promise.all(passwords.map(password => signIn(login, password)))
      expect(tried.map(({ answer }) => answer.status)).toEqual([401, 401, 401])
    }
  )

  it('is refused without a password, which a directory would take for anybody', async () => {
    for (const password of ['', '\0']) expect((await signIn('victim', password)).answer.status).toBe(401)
  })

  it('says the same of unknown names and wrong passwords, in the same time', async () => {
    const [unknown, wrong]: number[][] = [[], []]
    const texts = new Set<string>()
    const attempt = async (login: string, times: number[]) => {
      const startedAtMs = performance.now()
      const { answer } = await signIn(login, 'wrong')
      times.push(performance.now() - startedAtMs)
      const text = await answer.text()
      texts.add(text.replaceAll(/name="_csrf" value="[^"]*"|value="(victim|nobody-\d+)"/g, ''))
      expect(answer.status).toBe(401)
    }
    for (let round = 0; round < 5; round++) {
      await attempt('victim', wrong!)
      await attempt(`nobody-${round}`, unknown!)
    }
    expect(texts.size).toBe(1)
    // The quickest of each: what berth takes, and not what else the machine had to do.
    expect(Math.abs(Math.min(...unknown!) - Math.min(...wrong!))).toBeLessThan(100)
  })

  it('ends after ten tries at one name, wherever from, and leaves others in peace', async () => {
    const statuses: number[] = []
    const guess = async () => statuses.push((await signIn('target', 'guess')).answer.status)
    await Promise.all(Array.from({ length: 10 }, guess))
    expect(statuses).toEqual(Array(10).fill(401))
    await guess()
    expect(statuses.at(-1)).toBe(429)
    expect((await signIn('mallory', 'secret of mallory')).answer.status).toBe(303)
  })

  it('tells that the directory is down, and that keys are not concerned', async () => {
    const link = await linkFor(site, 'alice')
    await slapd.down()
    try {
      const { answer } = await signIn('mallory', 'secret of mallory')
      expect(answer.status).toBe(503)
      expect(await answer.text()).toMatch(/directory does not answer.*ssh works as ever/s)
      expect((await (await new Client(site.url).enter(link)).request('/keys')).status).toBe(200)
    } finally {
      await slapd.up()
    }
  })
})

describe('requests no browser sends', () => {
  it('are refused when they are too large', async () => {
    const alice = await clientOf(site, 'alice')
    const big = 'x'.repeat(10 * 1024 * 1024)
    const _csrf = await alice.formToken('/keys')
    expect((await alice.post('/keys/add', { _csrf, keys: big })).status).toBe(413)
    const form = new FormData()
    form.set('_csrf', _csrf)
    form.set('file', new Blob([big]), 'id.pub')
    expect((await alice.request('/keys/add', { method: 'POST', body: form })).status).toBe(413)
    const many = new FormData()
    for (let field = 0; field < 1000; field++) many.append(`f${field}`, 'x')
    expect((await alice.request('/keys/add', { method: 'POST', body: many })).status).toBe(413)
    expect((await new Client(site.url).request(`/link/${'x'.repeat(5000)}`)).status).toBeGreaterThanOrEqual(400)
  })

  it('find no file outside: tricks with paths', async () => {
    const { hostname, port } = new URL(site.url)
    const tricks = [
      '/assets/../../../../etc/passwd',
      '/assets/..%2f..%2f..%2fetc%2fpasswd',
      '/assets/%2e%2e/%2e%2e/etc/passwd',
      '/assets/berth.css%00.html',
      '//etc/passwd',
      '/assets/words.en.yaml',
      '/assets/layout.html',
      '/%',
      '/%ff',
      '/containers/..%2f..%2fusers/start'
    ]
    for (const path of tricks) {
      const sent = request({ host: hostname, port, path })
      sent.end()
      const [answer] = (await once(sent, 'response')) as [IncomingMessage]
      let text = ''
      for await (const chunk of answer) text += String(chunk)
      expect(answer.statusCode, path).toBeGreaterThanOrEqual(300)
      expect(text, path).not.toContain('root:x:')
      expect(text, path).not.toContain('href="//')
    }
  })

  it('are survived: rubbish, half requests, wrong types, odd hosts and forms', async () => {
    const { hostname, port } = new URL(site.url)
    for (const rubbish of [
      '\0\0\0\0',
      'GET / HTTP/9.9\r\n\r\n',
      'GET /',
      `GET / HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(100_000)}\r\n\r\n`
    ]) {
      const socket = connect(Number(port), hostname)
      socket.on('error', () => {})
      socket.write(rubbish)
      setTimeout(() => socket.destroy(), 100)
      await new Promise(resolve => socket.once('close', resolve))
    }
    const alice = await clientOf(site, 'alice')
    const _csrf = await alice.formToken('/keys')
    const odd: RequestInit[] = [
      { body: '{"a":', headers: { 'content-type': 'application/json' } },
      { body: '{"__proto__":{"x":1}}', headers: { 'content-type': 'application/json' } },
      { body: 'x', headers: { 'content-type': 'text/xml' } },
      { body: 'x', headers: { 'content-type': 'multipart/form-data' } },
      { body: '--x\r\nrubbish', headers: { 'content-type': 'multipart/form-data; boundary=x' } },
      {
        body: `_csrf=${_csrf}&fingerprint=a&fingerprint=b`,
        headers: { 'content-type': 'application/x-www-form-urlencoded' }
      },
      { body: `_csrf=${_csrf}&_csrf=${_csrf}`, headers: { 'content-type': 'application/x-www-form-urlencoded' } }
    ]
    for (const init of odd) {
      const { status } = await alice.request('/keys/remove', { method: 'POST', ...init })
      expect(status, JSON.stringify(init)).toBeGreaterThanOrEqual(400)
      expect(status, JSON.stringify(init)).toBeLessThan(500)
    }
    for (const query of ['?lang=xx', '?lang=zh&lang=en', '?q[]=1', '?page=-1', '?before=abc']) {
      for (const path of ['/', '/keys', '/ssh-config', '/admin/users', '/admin/audit'])
        expect((await alice.request(path + query)).status, path + query).toBeLessThan(500)
    }
  })

  it('open no admin page or action to members, nor any page to strangers', async () => {
    const alice = await clientOf(site, 'alice')
    const _csrf = await alice.formToken('/keys')
    for (const path of ['/admin/users', '/admin/nodes', '/admin/audit', '/api/v1/users', '/api/v1/audit'])
      expect((await alice.request(path)).status, path).toBe(403)
    for (const path of [
      '/admin/users/invite',
      '/admin/users/bob/disable',
      '/admin/users/bob/link',
      '/admin/users/bob/remove'
    ])
      expect((await alice.post(path, { _csrf, name: 'x', confirm: 'bob' })).status, path).toBe(403)
    const stranger = new Client(site.url)
    for (const path of [
      '/keys',
      '/ssh-config',
      '/ssh-config/config',
      '/containers',
      '/guide',
      '/access-tokens',
      '/admin/users'
    ])
      expect((await stranger.request(path)).headers.get('location'), path).toBe('/')
    expect((await stranger.request('/api/v1/keys')).status).toBe(401)
  })

  it('get the headers that keep browsers safe', async () => {
    const { headers } = await new Client(site.url).request('/')
    const policy = headers.get('content-security-policy')
    for (const directive of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'"])
      expect(policy).toContain(directive)
    expect(policy).not.toContain('unsafe')
    expect(headers.get('referrer-policy')).toBe('no-referrer')
    expect(headers.get('x-content-type-options')).toBe('nosniff')
    expect(headers.get('cache-control')).toBe('no-store')
  })
})
