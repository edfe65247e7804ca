import { chromium, type Browser, type BrowserContext, type Page } from 'playwright-core'
import { installPackages } from '../lab/packages.ts'

/** Debian's own Chromium, without a screen; installed where it is missing, with letters for both languages. */
export async function launchBrowser(): Promise<Browser> {
  await installPackages(line => console.log(line), ['chromium', 'fonts-noto-cjk', 'fonts-dejavu-core'])
  return chromium.launch({
    executablePath: '/usr/bin/chromium',
    // Root has no user namespace to sandbox in; the pages are ours.
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-proxy-server']
  })
}

export const DEVICES = {
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 1.5, hasTouch: true, isMobile: true },
  desk: { viewport: { width: 1280, height: 860 }, deviceScaleFactor: 1 }
} as const
export type Device = keyof typeof DEVICES

export interface Look {
  readonly device?: Device
  readonly language?: 'en' | 'zh'
  readonly scheme?: 'light' | 'dark'
  readonly javaScript?: boolean
}

/** A person's browser: nothing of anybody else's is in it. */
export function openBrowser(
  browser: Browser,
  baseURL: string,
  { device = 'desk', language = 'en', scheme = 'light', javaScript = true }: Look = {}
): Promise<BrowserContext> {
  return browser.newContext({
    ...DEVICES[device],
    baseURL,
    locale: language === 'zh' ? 'zh-CN' : 'en-GB',
    colorScheme: scheme,
    javaScriptEnabled: javaScript,
    acceptDownloads: true
  })
}

/** Opens a one-time link and presses its button. */
export async function enterByLink(page: Page, link: string): Promise<void> {
  await page.goto(link)
  await page.locator('main form button').click()
}
