import { randomInt } from 'node:crypto'
import { addUser, linkUser } from '../../src/admin/user-actions.ts'
import { loadConfig } from '../../src/config.ts'
import { linkUrl, webAddress } from '../../src/directory/sign-in-links.ts'
import { UserError } from '../../src/errors.ts'
import { freePort } from '../free-port.ts'
import { type Desk, openDesk } from '../admin/desk.ts'
import { act } from '../rig.ts'

/** A berth with web pages, whose node is switched off; what the pages are about in most tests. */
export async function openSite(config: Record<string, unknown> = {}): Promise<Desk & { url: string }> {
  const port = await freePort()
  const { web, ...rest } = config
  const listen = `127.0.0.1:${port}`
  const desk = await openDesk({ web: { listen, ...(web as object) }, ports: { from: 12_000, to: 19_999 }, ...rest })
  try {
    await desk.serve()
  } catch (error) {
    await desk[Symbol.asyncDispose]()
    throw error
  }
  return Object.assign(desk, { url: `http://${listen}` })
}

/** As `berth user add NAME`; passes over one who is there. */
export async function addMember(desk: { configPath: string }, name: string): Promise<void> {
  await act(desk, addUser, { name, keys: [] }).catch((error: unknown) => {
    if (!(error instanceof UserError && error.reason === 'exists')) throw error
  })
}

/** As `berth user link NAME`: a one-time link. */
export async function linkFor(desk: { configPath: string }, name: string): Promise<string> {
  const { secret } = await act(desk, linkUser, { name })
  return linkUrl(webAddress(loadConfig(desk.configPath).web)!, secret)
}

/** What curl would do, with cookies: answers are never followed. */
export class Client {
  readonly #base: string
  readonly #cookies = new Map<string, string>()
  readonly #address: string | undefined

  /** @param address where it seems to sit, by the word of a proxy that is trusted */
  constructor(base: string, address?: string) {
    this.#base = base
    this.#address = address
  }

  get cookies(): ReadonlyMap<string, string> {
    return this.#cookies
  }

  plant(name: string, value: string): void {
    this.#cookies.set(name, value)
  }

  async request(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers)
    if (this.#address !== undefined && !headers.has('x-forwarded-for')) headers.set('x-forwarded-for', this.#address)
    if (this.#cookies.size > 0) {
      headers.set('cookie', [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; '))
    }
    const answer = await fetch(new URL(path, this.#base), { redirect: 'manual', ...init, headers })
    for (const line of answer.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? []
      if (value === '' || /expires=Thu, 01 Jan 1970/i.test(line)) this.#cookies.delete(name)
      else this.#cookies.set(name, value)
    }
    return answer
  }

  async text(path: string): Promise<string> {
    return (await this.request(path)).text()
  }

  /** The token that the forms of a page carry. */
  async formToken(page: string): Promise<string> {
    return /name="_csrf" value="([^"]+)"/.exec(await this.text(page))?.[1] ?? ''
  }

  post(path: string, fields: Record<string, string>, headers: Record<string, string> = {}): Promise<Response> {
    return this.request(path, { method: 'POST', body: new URLSearchParams(fields), headers })
  }

  /** As the form on `page` would be sent. */
  async submit(page: string, path: string, fields: Record<string, string> = {}): Promise<Response> {
    return this.post(path, { _csrf: await this.formToken(page), ...fields })
  }

  async enter(link: string): Promise<this> {
    const path = new URL(link).pathname
    const answer = await this.submit(path, path)
    if (answer.status !== 303) throw new Error(`${answer.status}: ${await answer.text()}`)
    return this
  }
}

/** A signed-in member of that name, made where there is none; at a machine of their own, so that limits by address are not shared. */
export async function clientOf(desk: Desk & { url: string }, name: string): Promise<Client> {
  await addMember(desk, name)
  const address = `198.51.${randomInt(256)}.${randomInt(256)}`
  return new Client(desk.url, address).enter(await linkFor(desk, name))
}
