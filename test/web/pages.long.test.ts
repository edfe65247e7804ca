import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import axe from 'axe-core'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../free-port.ts'
import { run, startRig, type Member, type Rig } from '../rig.ts'
import { linkFor } from './site.ts'
import { type Device, DEVICES, enterByLink, launchBrowser, type Look, openBrowser } from './browser.ts'

/*
 * Every page as people see it, in a real Chromium, with a real container behind. What it looked like stays in test/.screenshots
 * for people to look at.
 */

const SCREENSHOTS = join(import.meta.dirname, '../.screenshots')
const MAX_PAGE_BYTES = 100 * 1024

const MEMBER_PAGES = {
  home: '/',
  keys: '/keys',
  'ssh-config': '/ssh-config',
  'ssh-config-windows': '/ssh-config?for=windows',
  containers: '/containers',
  guide: '/guide',
  'access-tokens': '/access-tokens'
}
const ADMIN_PAGES = {
  users: '/admin/users',
  nodes: '/admin/nodes',
  audit: '/admin/audit',
  'api-docs': '/api/docs',
  error: '/no/such/page'
}
const LOOKS = (['phone', 'desk'] as const).flatMap(device =>
  (['en', 'zh'] as const).map(language => ({ device, language }))
)

let rig: Rig
let url: string
let alice: Member
let browser: Browser

beforeAll(async () => {
  const port = await freePort('127.0.0.1')
  url = `http://127.0.0.1:${port}`
  const config = { web: { listen: `127.0.0.1:${port}`, admins: ['alice'] } }
  ;[rig, browser] = await Promise.all([startRig({ config }), launchBrowser()])
  alice = await rig.addRunningMember('alice')
  for (const name of ['bob', 'carol']) await rig.addMember(name)
  await rig.berth('user', 'disable', 'carol')
  mkdirSync(SCREENSHOTS, { recursive: true })
})
afterAll(async () => {
  await browser?.close()
  await rig?.[Symbol.asyncDispose]()
})

async function enter(name: string, look: Look): Promise<{ context: BrowserContext; page: Page }> {
  const context = await openBrowser(browser, url, look)
  const page = await context.newPage()
  await enterByLink(page, await linkFor(rig, name))
  return { context, page }
}

interface AxeResults {
  violations: { id: string; impact: string | null; help: string; nodes: { html: string; failureSummary: string }[] }[]
}

/** What axe-core calls serious or worse. Evaluated by the browser's debugger: the page's own policy stays as it is. */
async function faultsOf(page: Page, options = '{}'): Promise<string[]> {
  const { violations } = await page.evaluate<AxeResults>(`axe.run(document, ${options})`)
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.map(node => node.html).join('\n')}`)
}

/** What Lighthouse would look at first, and that nothing sticks out of the window. */
const basicsOf = (page: Page): Promise<unknown> =>
  page.evaluate(`({
    title: document.title !== '',
    language: document.documentElement.lang,
    viewport: document.querySelector('meta[name=viewport]').content.includes('width=device-width'),
    headings: document.querySelectorAll('h1').length,
    unlabelled: [...document.querySelectorAll('input:not([type=hidden]), textarea, select')].filter(
      field => field.labels.length === 0
    ).length,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth
  })`)

async function look(page: Page, path: string, name: string, { language, device }: (typeof LOOKS)[number]) {
  await page.emulateMedia({ colorScheme: 'light' })
  let answer = await page.goto(path)
  // A page that waits for a node says so, and asks the browser to come back.
  for (let time = 0; time < 10 && answer!.headers()['refresh'] !== undefined; time++) answer = await page.goto(path)
  const bytes = (await answer!.body()).length
  expect(bytes, `${path} is too large`).toBeLessThan(MAX_PAGE_BYTES)
  const shoot = async (scheme: string) => {
    await page.screenshot({ path: join(SCREENSHOTS, `${name}-${device}-${language}-${scheme}.png`), fullPage: true })
  }
  await shoot('light')
  expect(await basicsOf(page), path).toEqual({
    title: true,
    language: language === 'zh' ? 'zh-Hans' : 'en',
    viewport: true,
    headings: 1,
    unlabelled: 0,
    wide: false
  })
  await page.evaluate(axe.source)
  expect(await faultsOf(page), path).toEqual([])
  await page.emulateMedia({ colorScheme: 'dark' })
  await shoot('dark')
  expect(await faultsOf(page, `{ runOnly: ['color-contrast'] }`), `${path}, dark`).toEqual([])
}

describe('every page', () => {
  it.each(LOOKS)('is handsome and fit for everybody: $device, $language, light and dark', async how => {
    const stranger = await openBrowser(browser, url, how)
    const outside = await stranger.newPage()
    await look(outside, '/', 'sign-in', how)
    await look(outside, new URL(await linkFor(rig, 'bob')).pathname, 'link', how)
    await look(outside, '/link/wrong', 'link-invalid', how)
    await stranger.close()
    const { context, page } = await enter('alice', how)
    for (const [name, path] of Object.entries({ ...MEMBER_PAGES, ...ADMIN_PAGES })) await look(page, path, name, how)
    await context.close()
  })

  it('is whole without loading anything from elsewhere', async () => {
    const { context, page } = await enter('alice', {})
    const asked: string[] = []
    page.on('request', request => asked.push(request.url()))
    const failed: string[] = []
    page.on('console', message => message.type() === 'error' && failed.push(message.text()))
    for (const path of [...Object.values(MEMBER_PAGES), '/admin/users', '/admin/nodes']) await page.goto(path)
    expect(asked.filter(address => !address.startsWith(url))).toEqual([])
    expect(failed).toEqual([])
    await context.close()
  })

  it('changes its language by a switch, and keeps it', async () => {
    const { context, page } = await enter('alice', { language: 'zh' })
    await page.goto('/keys')
    expect(await page.locator('h1').innerText()).toBe('密钥')
    await page.getByRole('link', { name: 'English' }).click()
    expect(await page.locator('h1').innerText()).toBe('Keys')
    await page.goto('/guide')
    expect(await page.locator('h1').innerText()).toBe('Guide')
    await context.close()
  })
})

describe('without JavaScript', () => {
  it.each(Object.keys(DEVICES) as Device[])('a member does everything, on a %s', async device => {
    const { context, page } = await enter('bob', { device, javaScript: false })
    const identity = await rig.makeKey(`bob-${device}`)
    const other = await rig.makeKey(`bob-file-${device}`)
    const pub = readFileSync(`${identity}.pub`, 'utf8')

    await page.goto('/keys')
    await page.getByLabel('Public keys, one a line').fill(pub)
    await page.getByRole('button', { name: 'Add', exact: true }).click()
    expect(await page.getByRole('status').innerText()).toContain('Added.')
    await page.getByLabel('Or a file').setInputFiles(`${other}.pub`)
    await page.getByRole('button', { name: 'Add', exact: true }).click()
    expect(await page.locator('main').innerText()).toContain(`bob-file-${device}`)
    const bare = rig.manageArguments('bob', other)
    expect(await run([...bare, 'keys'])).toMatchObject({ code: 0 })

    const row = page.locator('li.key', { hasText: `bob-file-${device}` })
    await row.locator('summary').click()
    await row.getByRole('button', { name: /^Remove/ }).click()
    expect(await page.getByRole('status').innerText()).toContain('Removed.')
    expect((await run([...bare, 'keys'])).code).not.toBe(0)

    await page.goto('/access-tokens')
    await page.getByLabel('What it is for').fill('my script')
    await page.getByRole('button', { name: 'Create' }).click()
    const secret = await page.locator('#secret').innerText()
    const authorization = `Bearer ${secret.trim()}`
    expect((await fetch(`${url}/api/v1/me`, { headers: { authorization } })).status).toBe(200)
    await page.getByRole('button', { name: /^Revoke/ }).click()
    expect((await fetch(`${url}/api/v1/me`, { headers: { authorization } })).status).toBe(401)

    await page.getByRole('button', { name: 'Sign out' }).click()
    expect(await page.locator('h1').innerText()).toBe('Your place on every GPU server')
    await context.close()
  })

  it('refuses private, weak and broken keys with the reason, and gives a private key back to nobody', async () => {
    const { context, page } = await enter('bob', { javaScript: false })
    const privateKey = readFileSync(await rig.makeKey('bob-private'), 'utf8')
    const weak = join(rig.directory, 'weak')
    await run(['ssh-keygen', '-q', '-t', 'rsa', '-b', '1024', '-N', '', '-f', weak])
    const cases = [
      { text: privateKey, said: /private key, which must never leave your machine/ },
      { text: readFileSync(`${weak}.pub`, 'utf8'), said: /RSA key of 1024 bits; 2048 is the least/ },
      { text: 'ssh-ed25519 AAAAC3Nza', said: /truncated or damaged/ },
      { text: '', said: /It is empty/ }
    ]
    for (const { text, said } of cases) {
      await page.goto('/keys')
      await page.getByLabel('Public keys, one a line').fill(text)
      await page.getByRole('button', { name: 'Add', exact: true }).click()
      expect(await page.getByRole('alert').innerText()).toMatch(said)
      expect(await page.content()).not.toContain('BEGIN OPENSSH')
    }
    await context.close()
  })
})

describe('a key added or removed on the page', () => {
  it('works or stops working in the running container within 2 s, and the page says so', async () => {
    const { context, page } = await enter('alice', {})
    const identity = await rig.makeKey('alice-second')
    // The member's configuration names the first key too: what is asked is whether this one is let in.
    writeFileSync(
      join(rig.directory, 'second.config'),
      readFileSync(alice.sshConfig, 'utf8').replaceAll(alice.identity, identity)
    )
    const enterBySecond = () =>
      run(['ssh', '-F', join(rig.directory, 'second.config'), '-o', 'ControlPath=none', 'gpu1', 'true'])
    expect((await enterBySecond()).code).not.toBe(0)
    await page.goto('/keys')
    await page.getByLabel('Public keys, one a line').fill(readFileSync(`${identity}.pub`, 'utf8'))
    const addedAtMs = Date.now()
    await page.getByRole('button', { name: 'Add', exact: true }).click()
    expect(await page.getByRole('status').innerText()).toMatch(/gpu1: in effect in your container/)
    expect(Date.now() - addedAtMs).toBeLessThan(2000)
    expect(await enterBySecond()).toMatchObject({ code: 0 })

    await page.locator('li.key', { hasText: 'alice-second' }).locator('summary').click()
    const removedAtMs = Date.now()
    await page
      .locator('li.key', { hasText: 'alice-second' })
      .getByRole('button', { name: /^Remove/ })
      .click()
    expect(await page.getByRole('status').innerText()).toMatch(/Removed\..*gpu1: in effect in your container/s)
    expect(Date.now() - removedAtMs).toBeLessThan(2000)
    expect((await enterBySecond()).code).not.toBe(0)
    await context.close()
  })
})

describe('My containers', () => {
  it('shows, stops and starts a container, and waits for a stopped one with its keys', async () => {
    const { context, page } = await enter('alice', { javaScript: false })
    await page.goto('/containers')
    const card = page.locator('#gpu1')
    await expect
      .poll(async () => (await page.reload(), card.innerText()), { timeout: 30_000 })
      .toMatch(/running.*ssh gpu1.*Memory.*MiB/s)
    await card.locator('summary', { hasText: 'Stop' }).click()
    await card.getByRole('button', { name: 'Stop it' }).click()
    await expect.poll(async () => (await page.reload(), card.innerText()), { timeout: 40_000 }).toContain('stopped')
    await page.goto('/keys')
    await page
      .getByLabel('Public keys, one a line')
      .fill(readFileSync(`${await rig.makeKey('alice-later')}.pub`, 'utf8'))
    await page.getByRole('button', { name: 'Add', exact: true }).click()
    expect(await page.getByRole('status').innerText()).toMatch(
      /gpu1: your container is stopped; in effect at its next start/
    )
    await page.goto('/containers')
    await card.getByRole('button', { name: /^Start/ }).click()
    await expect.poll(async () => (await page.reload(), card.innerText()), { timeout: 40_000 }).toMatch(/running/)
    expect(await alice.login('true')).toMatchObject({ code: 0 })
    await context.close()
  })
})

describe('an extra port', () => {
  it('is opened and closed by the page, in the same words of the audit as over SSH', async () => {
    const { context, page } = await enter('alice', { javaScript: false })
    await page.goto('/containers')
    const card = page.locator('#gpu1')
    const shown = () => expect.poll(async () => (await page.reload(), card.innerText()), { timeout: 30_000 })
    await shown().toMatch(/running/)
    const open = async (port: string) => {
      await card.locator('summary', { hasText: 'Extra ports' }).click()
      await card.getByLabel('Port in the container').fill(port)
      await card.getByRole('button', { name: 'Open', exact: true }).click()
    }
    await open('8888')
    await shown().toContain('→ 8888')
    expect(JSON.parse((await alice.manage('port --json')).stdout)).toMatchObject([{ containerPort: 8888 }])
    await open('70000')
    await shown().toContain('That request is not understood.')
    await card.locator('summary', { hasText: 'Extra ports' }).click()
    await card.getByRole('button', { name: 'Close port 8888' }).click()
    await shown().not.toContain('→ 8888')
    expect(JSON.parse((await alice.manage('port --json')).stdout)).toEqual([])
    const { stdout } = await rig.berth('audit', '--user', 'alice')
    expect(stdout).toMatch(/port 8888[^]*port close 8888/)
    await context.close()
  })
})

describe('admins', () => {
  it('invite, disable, enable and remove members, and see nodes and what was done', async () => {
    const { context, page } = await enter('alice', { javaScript: false })
    await page.goto('/admin/users')
    const inviteDave = async () => {
      await page.getByLabel('Invite, by user name').fill('dave')
      await page.getByRole('button', { name: 'Invite' }).click()
    }
    await inviteDave()
    expect(await page.locator('main').innerText()).not.toContain('has ended')
    await inviteDave()
    expect(await page.locator('main').innerText()).toContain('The one before has ended.')
    const invite = (await page.locator('#invite-link').innerText()).trim()
    expect(await page.locator('#invite-line').innerText()).toMatch(/enroll@.* dave /)
    const dave = await openBrowser(browser, url, { javaScript: false })
    const davesPage = await dave.newPage()
    await enterByLink(davesPage, invite)
    expect(await davesPage.locator('h1').innerText()).toBe('Keys')

    const rowOf = (name: string) => page.locator('tbody tr', { hasText: name })
    const change = async (button: RegExp) => {
      await page.goto('/admin/users?q=dave')
      await rowOf('dave').locator('summary').click()
      if (button.test('Remove for good'))
        await rowOf('dave')
          .getByLabel(/Type the name/)
          .fill('dave')
      await rowOf('dave').getByRole('button', { name: button }).click()
    }
    await change(/^Disable/)
    expect(await rowOf('dave').innerText()).toContain('disabled')
    await davesPage.goto('/keys')
    expect(await davesPage.locator('h1').innerText()).not.toBe('Keys')
    await change(/^Enable/)
    expect(await rowOf('dave').innerText()).toContain('enabled')
    await change(/^Remove/)
    expect(await rowOf('dave').count()).toBe(0)
    expect((await rig.berth('user', 'show', 'dave')).code).toBe(64)

    await page.goto('/admin/nodes')
    await expect
      .poll(async () => (await page.reload(), page.locator('main').innerText()), { timeout: 30_000 })
      .toMatch(/gpu1.*answers.*LXD 5/s)
    await page.goto('/admin/audit')
    expect(await page.locator('main').innerText()).toMatch(/user remove dave/)
    await dave.close()
    await context.close()
  })
})
