import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LxdEndpoint } from '../../src/lxd/transport.ts'

/** Stands between the client and a real server and breaks the connection in ways a server cannot be asked to. */
export class ByteProxy implements AsyncDisposable {
  /** The real server as the client finds it behind the proxy. */
  readonly endpoint: LxdEndpoint
  /** `METHOD PATH` of each request that passed, where the bytes can be read (not over TLS). */
  readonly requests: string[] = []
  /** Passes nothing on while true. */
  stalled = false
  /** Called with each piece the client sends, before it is passed on. */
  onRequest: (text: string) => void = () => {}
  readonly #directory: string
  readonly #server
  readonly #sockets = new Set<Socket>()

  private constructor(behind: LxdEndpoint, directory: string, listener: ReturnType<typeof createServer>) {
    this.#directory = directory
    this.#server = listener
    const address = listener.address() as AddressInfo | string
    const url = typeof address === 'string' ? `unix://${address}` : `https://127.0.0.1:${address.port}`
    this.endpoint = { ...behind, url }
    const { protocol, pathname, hostname, port } = new URL(behind.url)
    listener.on('connection', near => {
      const far = protocol === 'unix:' ? connect(pathname) : connect(Number(port), hostname)
      for (const socket of [near, far]) {
        this.#sockets.add(socket)
        socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket))
      }
      near.on('data', data => {
        if (this.stalled) return
        const text = data.toString('latin1')
        const [, request] = /^([A-Z]+ \S+) HTTP\/1\.1\r\n/.exec(text) ?? []
        if (request !== undefined) this.requests.push(request)
        this.onRequest(text)
        far.write(data)
      })
      far.on('data', data => this.stalled || near.write(data))
      near.on('close', () => far.destroy())
      far.on('close', () => near.destroy())
    })
  }

  static async open(behind: LxdEndpoint): Promise<ByteProxy> {
    const directory = await mkdtemp(join(tmpdir(), 'berth-proxy-'))
    const listener = createServer()
    if (behind.url.startsWith('unix:')) listener.listen(join(directory, 'socket'))
    else listener.listen(0, '127.0.0.1')
    await once(listener, 'listening')
    return new ByteProxy(behind, directory, listener)
  }

  /** Cuts every connection there is; new ones are taken. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  /** Cuts, and refuses from now on. */
  vanish(): void {
    this.#server.close()
    this.cut()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.vanish()
    await rm(this.#directory, { recursive: true })
  }
}
