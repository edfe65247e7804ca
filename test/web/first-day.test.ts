import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { freePort } from '../free-port.ts'
import { run, startRig, type Rig } from '../rig.ts'
import { Slapd } from '../slapd.ts'
import { itLong } from '../suite.ts'
import { enterByLink, launchBrowser, openBrowser } from './browser.ts'

/*
 * The first day of a member who was told one address: from the sign-in page to a shell in the container, with nothing but a browser,
 * ssh-keygen and ssh. Each has a home of their own, laid over root's, for ssh takes its path from passwd(5).
 */

let slapd: Slapd
let rig: Rig
let browser: Browser
let url: string

beforeAll(async () => {
  slapd = await Slapd.start()
  await slapd.addPerson('Wang.Wei', { cn: '王伟 <b>' })
  const port = await freePort('127.0.0.1')
  url = `http://127.0.0.1:${port}`
  const config = { web: { listen: `127.0.0.1:${port}` }, ldap: slapd.config() }
  ;[rig, browser] = await Promise.all([startRig({ config }), launchBrowser()])
})
afterAll(async () => {
  await browser?.close()
  await rig?.[Symbol.asyncDispose]()
  await slapd?.[Symbol.asyncDispose]()
})

interface Home {
  readonly directory: string
  run(line: string): ReturnType<typeof run>
}

function makeHome(name: string): Home {
  const directory = join(rig.directory, `home-${name}`)
  mkdirSync(join(directory, 'Downloads'), { recursive: true })
  const within = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c']
  const enter = 'mount --bind "$0" /root && cd /root && exec sh -c "$1"'
  return { directory, run: line => run([...within, enter, directory, line]) }
}

async function pasteKey(page: Page, home: Home): Promise<void> {
  expect(await page.locator('h1').innerText()).toBe('Keys')
  const made = await home.run('mkdir -m 700 -p ~/.ssh && ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/id_ed25519 -C laptop')
  expect(made.code, made.stderr).toBe(0)
  await page
    .getByLabel('Public keys, one a line')
    .fill(readFileSync(join(home.directory, '.ssh/id_ed25519.pub'), 'utf8'))
  await page.getByRole('button', { name: 'Add', exact: true }).click()
  expect(await page.getByRole('status').innerText()).toContain('Added.')
}

async function download(page: Page, home: Home, button: string): Promise<void> {
  const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: button }).click()])
  await file.saveAs(join(home.directory, 'Downloads', file.suggestedFilename()))
}

it('leads from the password of the domain to a shell in the container', async () => {
  const home = makeHome('wang')
  const context = await openBrowser(browser, url)
  const page = await context.newPage()
  await page.goto('/')
  await page.getByLabel('User name').fill('Wang.Wei')
  await page.getByLabel('Password').fill('secret of Wang.Wei')
  await page.getByRole('button', { name: 'Sign in' }).click()
  const name = await page.locator('.who .name').innerText()
  expect(name).toMatch(/^[a-z][a-z0-9-]*$/)
  await pasteKey(page, home)

  await page.getByRole('link', { name: 'SSH config' }).click()
  writeFileSync(join(home.directory, 'file'), await page.locator('#config').innerText())
  writeFileSync(join(home.directory, '.ssh/berth_known_hosts'), await page.locator('#hosts').innerText())
  const ssh = (words: string) => home.run(`ssh -o BatchMode=yes -F ~/file ${words}`)
  const registered = await ssh(`register@gpu1-manage ${name}`)
  expect(registered.code, registered.stderr).toBe(0)
  expect(await ssh('gpu1 true')).toMatchObject({ code: 0, stdout: '' })
  await page.goto('/containers')
  await expect
    .poll(async () => (await page.reload(), page.locator('main').innerText()), { timeout: 30_000 })
    .toContain('running')
  await ssh('-q -O exit gpu1; ssh -q -F ~/file -O exit gpu1-manage')
  await context.close()
})

itLong(
  'leads from an invite link to a shell in the container, without a directory, by the lines the page shows',
  async () => {
    const home = makeHome('nina')
    const invited = JSON.parse((await rig.berth('invite', 'nina', '--json')).stdout) as { link: string }
    const context = await openBrowser(browser, url, { device: 'phone' })
    const page = await context.newPage()
    await enterByLink(page, invited.link)
    await pasteKey(page, home)

    await page.goto('/ssh-config')
    await download(page, home, 'Download berth_config')
    await download(page, home, 'Download berth_known_hosts')
    const placed = await home.run(await page.locator('#unix-move').innerText())
    expect(placed.code, placed.stderr).toBe(0)
    await page.goto('/')
    const lines = (await page.locator('#lines').innerText()).split('\n').filter(Boolean)
    expect(lines[0]).toMatch(/^ssh register@gpu1-manage nina /)
    const options = 'BatchMode yes\n'
    writeFileSync(
      join(home.directory, '.ssh/config'),
      options + readFileSync(join(home.directory, '.ssh/config'), 'utf8')
    )
    for (const line of [lines[0]!, 'ssh gpu1 true', lines[2]!]) {
      const ran = await home.run(line)
      expect(ran.code, `${line}: ${ran.stderr}`).toBe(0)
    }
    await home.run('ssh -q -O exit gpu1; ssh -q -O exit gpu1-manage')
    await context.close()
  }
)
