import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'

export type Moment = 'before' | 'after'

/** What LXD is asked to change; exec and events go through websockets and are not counted, nor is the file interface. */
const CHANGE = /^(POST|PUT|PATCH|DELETE) (\/1\.0\/\S+) HTTP\/1\.1\r\n/
const NOT_COUNTED = /\/(files|exec|state)\b|\/1\.0\/operations\//

/**
 * Stands between berth and a real LXD and strikes at the n-th change berth asks for: before LXD hears of it, or when LXD has
 * answered and berth has not heard.
 */
export class KillProxy implements AsyncDisposable {
  readonly path: string
  /** The changes asked for since the last `arm`, as `METHOD PATH` without ids. */
  readonly changes: string[] = []
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #armed: { moment: Moment; at: number; strike: () => void } | undefined
  #held: { at: number; work: () => Promise<unknown> } | undefined

  private constructor(path: string, behind: string) {
    this.path = path
    this.#server = createServer(near => {
      const far = connect(behind)
      let awaiting = 0
      for (const socket of [near, far]) {
        this.#sockets.add(socket)
        socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket))
      }
      near.on('data', data => {
        const [, method, url] = CHANGE.exec(data.toString('latin1', 0, 1000)) ?? []
        if (method !== undefined && url !== undefined && !NOT_COUNTED.test(url)) {
          awaiting = this.changes.push(`${method} ${url.replace(/\?.*/, '')}`)
          if (this.#strikes('before', awaiting)) return
          if (this.#held?.at === awaiting) {
            near.pause()
            void this.#held.work().finally(() => {
              far.write(data)
              near.resume()
            })
            return
          }
        }
        far.write(data)
      })
      far.on('data', data => {
        if (awaiting > 0 && this.#strikes('after', awaiting)) return
        awaiting = 0
        near.write(data)
      })
      near.on('close', () => far.destroy())
      far.on('close', () => near.destroy())
    })
  }

  static async open(path: string, behind: string): Promise<KillProxy> {
    const proxy = new KillProxy(path, behind)
    proxy.#server.listen(path)
    await once(proxy.#server, 'listening')
    return proxy
  }

  /** Counts anew; `strike` is called once, at that moment of the n-th change (from 1), which goes no further. */
  arm(moment: Moment, at: number, strike: () => void): void {
    this.changes.length = 0
    this.#armed = { moment, at, strike }
  }

  /** Counts anew; the n-th change (from 1) reaches LXD only when `work` is done. */
  hold(at: number, work: () => Promise<unknown>): void {
    this.changes.length = 0
    this.#held = { at, work }
  }

  /** @returns whether it had not come to the strike */
  disarm(): boolean {
    const wasArmed = this.#armed !== undefined
    this.#armed = undefined
    this.#held = undefined
    return wasArmed
  }

  #strikes(moment: Moment, number: number): boolean {
    if (this.#armed?.moment !== moment || this.#armed.at !== number) return false
    const { strike } = this.#armed
    this.#armed = undefined
    strike()
    for (const socket of this.#sockets) socket.destroy()
    return true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await once(this.#server, 'close')
    rmSync(this.path, { force: true })
  }
}
