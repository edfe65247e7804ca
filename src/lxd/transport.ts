import { X509Certificate } from 'node:crypto'
import { createConnection, type Socket } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import { Agent } from 'undici'
import { LxdError } from './lxd-error.ts'

export interface LxdEndpoint {
  /** `unix:///path/to/unix.socket` or `https://host[:port]` (8443 when left out). */
  readonly url: string
  readonly project?: string | undefined
  /** Cluster member on which new instances are placed. */
  readonly target?: string | undefined
  readonly tls?: LxdTls | undefined
}

/** All PEM. `serverCertificate` is the one certificate the server must show: neither its issuer nor its names matter. */
export interface LxdTls {
  readonly cert: string
  readonly key: string
  readonly serverCertificate: string
}

// Below the three seconds within which an absent server must be reported.
const CONNECT_TIMEOUT_MS = 2500
const CONNECT_STEPS = 5
const KEEPALIVE_DELAY_MS = 15_000

/** Opens connections to one LXD; HTTP requests and websockets share this one way in. */
export class Transport {
  readonly origin: string
  readonly agent: Agent
  /** The address as an admin wrote it, for messages. */
  readonly address: string
  readonly #open: () => Socket
  readonly #pinned: Buffer | undefined

  constructor(endpoint: LxdEndpoint) {
    const url = new URL(endpoint.url)
    this.address = endpoint.url
    if (url.protocol === 'unix:') {
      const path = decodeURIComponent(url.pathname)
      this.origin = 'http://lxd'
      this.#open = () => createConnection({ path })
    } else if (url.protocol === 'https:' && endpoint.tls !== undefined) {
      const { cert, key, serverCertificate } = endpoint.tls
      const host = url.hostname.replace(/^\[|\]$/g, '')
      const port = Number(url.port || 8443)
      this.origin = `https://${url.hostname}:${port}`
      this.#pinned = new X509Certificate(serverCertificate).raw
      // Certificate authorities are not asked: #check compares the certificate itself before a byte is sent.
      this.#open = () => connectTls({ host, port, cert, key, rejectUnauthorized: false, minVersion: 'TLSv1.2' })
    } else {
      throw new TypeError(`${endpoint.url}: expected unix:///… or https://… with a client certificate`)
    }
    this.agent = new Agent({
      connect: (_options, callback) => {
        this.connect().then(
          socket => callback(null, socket),
          error => callback(error, null)
        )
      }
    })
  }

  /** A connected and, for HTTPS, verified socket. @throws LxdError `unreachable`, within 3 s */
  connect(): Promise<Socket> {
    return new Promise((resolve, reject) => {
      const socket = this.#open()
      const fail = (cause: Error) => {
        clearInterval(timer)
        socket.destroy()
        reject(new LxdError('unreachable', `${this.address}: ${cause.message}`, { cause }))
      }
      const closed = () => fail(new Error('closed while connecting'))
      // In steps: while the process does something else nothing is heard of a connection that has been made, and only one step goes by.
      let stepsLeft = CONNECT_STEPS
      const timer = setInterval(() => {
        if (--stepsLeft === 0) fail(new Error('no connection in time'))
      }, CONNECT_TIMEOUT_MS / CONNECT_STEPS)
      socket.on('error', fail)
      socket.on('close', closed)
      socket.once(this.#pinned === undefined ? 'connect' : 'secureConnect', () => {
        const shown = this.#pinned && (socket as TLSSocket).getPeerX509Certificate()?.raw
        if (this.#pinned !== undefined && !shown?.equals(this.#pinned))
          return fail(new Error('the server shows another certificate than the one trusted'))
        clearInterval(timer)
        socket.off('error', fail).off('close', closed)
        socket.setNoDelay(true).setKeepAlive(true, KEEPALIVE_DELAY_MS)
        resolve(socket)
      })
    })
  }

  close(): Promise<void> {
    return this.agent.destroy()
  }
}
