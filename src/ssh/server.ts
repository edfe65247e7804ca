import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import ssh2, { type AuthContext } from 'ssh2'
import { plainAddress } from '../command/address.ts'
import type { Principal } from '../command/command.ts'
import type { RunCommand } from '../command/run-command.ts'
import type { NodeConfig } from '../config.ts'
import { UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import { ALGORITHMS } from './algorithms.ts'
import { authenticate, type Directory } from './authenticate.ts'
import { Gate, GATE_LIMITS, type GateLimits } from './gate.ts'
import { LoginDialogue } from './login-dialogue.ts'
import { serveSession } from './session.ts'
import { socketOf, Wire } from './wire-protocol.ts'

export interface SshServerOptions extends Directory {
  /** Address to listen on. */
  readonly listen: string
  /** Each node's manage endpoint is the port `managePort`; 0 takes a free one. */
  readonly nodes: readonly NodeConfig[]
  /** The Ed25519 private key all endpoints show, OpenSSH PEM. */
  readonly hostKey: string
  readonly run: RunCommand
  readonly log: Log
  readonly limits?: Partial<ConnectionLimits>
}

interface ConnectionLimits extends GateLimits {
  /** From the TCP connection to the login (sshd_config(5), LoginGraceTime). */
  readonly graceMs: number
  /** A client that is silent this long is asked whether it is there; the fourth question in a row is the end. */
  readonly keepaliveMs: number
  /** Connections of all kinds to one endpoint. */
  readonly connections: number
  /** Of one member, to all endpoints: nobody alone takes every place of one. */
  readonly connectionsPerUser: number
}

const CONNECTION_LIMITS: ConnectionLimits = {
  ...GATE_LIMITS,
  graceMs: 20_000,
  keepaliveMs: 15_000,
  connections: 4096,
  connectionsPerUser: 1024
}

export interface SshServer {
  /** The port each node's endpoint listens on, by node name. */
  readonly ports: ReadonlyMap<string, number>
  /** Hangs up on every connection of a user. */
  endUser(userId: number): void
  /** Stops listening and hangs up on everybody. */
  close(): Promise<void>
}

/** One connection from its TCP handshake on. */
interface Visitor {
  readonly id: string
  readonly node: NodeConfig
  readonly address: string
  readonly log: Log
  /** Stops the grace timer and gives the place at the gate back; once. */
  settle(): void
  /** Begins the grace time anew. */
  linger(): void
  wire?: Wire
  principal?: Principal
  /** Whose the key was at the login: nobody's for a certificate, or before it is enrolled. */
  keyOwner?: number | undefined
}

/** Listens on the manage endpoint of every node. @throws UserError `port-taken`, or what else listen(2) says */
export async function startSshServer(options: SshServerOptions): Promise<SshServer> {
  const { listen, nodes, hostKey, run, log } = options
  const limits = { ...CONNECTION_LIMITS, ...options.limits }
  const gate = new Gate(limits)
  const visitors = new Map<Socket, Visitor>()
  const engine = new ssh2.Server({
    hostKeys: [hostKey],
    algorithms: ALGORITHMS,
    ident: 'berth',
    keepaliveInterval: limits.keepaliveMs,
    keepaliveCountMax: 3
  })
  engine.on('connection', (client, { header }) => {
    const visitor = visitors.get(socketOf(client))
    if (visitor) serve(client, visitor, header.versions.software)
  })

  const listeners: Server[] = []
  const ports = new Map<string, number>()
  try {
    for (const node of nodes) {
      const listener = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 }, socket =>
        receive(socket, node)
      )
      listener.maxConnections = limits.connections
      await listenOn(listener, listen, node)
      listener.on('error', error => log.error({ err: error, node: node.name }, 'listener'))
      listeners.push(listener)
      ports.set(node.name, (listener.address() as AddressInfo).port)
    }
  } catch (error) {
    for (const listener of listeners) listener.close()
    throw error
  }

  function receive(socket: Socket, node: NodeConfig): void {
    socket.on('error', () => {})
    const address = plainAddress(socket.remoteAddress)
    if (!gate.admit(address, Date.now())) {
      // sshd says the same; it must come before the version line (RFC 4253 section 4.2).
      socket.end('Exceeded MaxStartups\r\n', () => socket.destroy())
      log.debug({ address, node: node.name }, 'dropped at the gate')
      return
    }
    const id = randomBytes(5).toString('hex')
    let settled = false
    const grace = setTimeout(() => {
      visitor.wire?.disconnect('the login took too long')
      if (!visitor.wire) socket.destroy()
    }, limits.graceMs)
    const visitor: Visitor = {
      id,
      node,
      address,
      log: log.child({ connection: id, address, node: node.name }),
      settle() {
        clearTimeout(grace)
        if (!settled) gate.settle(address)
        settled = true
      },
      linger: () => grace.refresh()
    }
    visitors.set(socket, visitor)
    socket.once('close', () => {
      visitor.settle()
      visitors.delete(socket)
    })
    engine.injectSocket(socket)
  }

  function serve(client: ssh2.Connection, visitor: Visitor, software: string): void {
    let sessions = 0
    const wire = new Wire(client, session => {
      const sessionId = `${visitor.id}-${++sessions}`
      const { principal, node, address } = visitor
      if (!principal) return
      // Clients that share connections would go on with a key that is no more.
      if (visitor.keyOwner !== undefined && options.keys.find(principal.key.fingerprint)?.userId !== visitor.keyOwner) {
        wire.disconnect('the key of this connection was removed')
        return
      }
      if (!principal.user && sessions > 1) {
        wire.disconnect('enrol a key first')
        return
      }
      serveSession(session, {
        sessionId,
        wire,
        principal,
        node,
        address,
        software,
        run: principal.user ? run : runForStranger,
        log: visitor.log.child({ session: sessionId })
      })
    })
    visitor.wire = wire
    client.on('error', error => visitor.log.debug({ reason: error.message }, 'connection error'))
    const dialogue = new LoginDialogue({
      wire,
      gate,
      node: visitor.node,
      address: visitor.address,
      log: visitor.log,
      judge: attempt => authenticate(attempt, options, Date.now())
    })
    client.on('authentication', (request: AuthContext) => {
      const principal = dialogue.answer(request)
      if (!principal) return
      if (principal.user && countOf(principal.user.id) >= limits.connectionsPerUser) {
        wire.disconnect(`you have ${limits.connectionsPerUser} connections open`)
        return
      }
      visitor.principal = principal
      visitor.keyOwner = options.keys.find(principal.key.fingerprint)?.userId
      if (principal.user) {
        visitor.settle()
        gate.loggedIn(visitor.address, Date.now())
      } else {
        // Any key logs in as `enroll`: that earns neither trust nor a place to stay.
        visitor.linger()
      }
      touch(principal, visitor)
      visitor.log.info(
        { login: principal.login, user: principal.user?.name, fingerprint: principal.key.fingerprint },
        'logged in'
      )
      request.accept()
    })
  }

  const countOf = (userId: number): number =>
    [...visitors.values()].filter(({ principal }) => principal?.user?.id === userId).length

  /** A wrong code counts as a wrong signature does. */
  const runForStranger: RunCommand = async (words, invocation) => {
    const exitCode = await run(words, invocation)
    if (exitCode !== 0) gate.failed(invocation.address, Date.now())
    return exitCode
  }

  /** A database that cannot be written, on a full disk perhaps, must not lock members out. */
  function touch({ key }: Principal, { address, log: visitorLog }: Visitor): void {
    try {
      options.keys.touch(key.fingerprint, address)
    } catch (error) {
      visitorLog.warn({ err: error }, 'last use of a key not noted')
    }
  }

  return {
    ports,
    endUser(userId) {
      for (const { principal, wire } of visitors.values())
        if (principal?.user?.id === userId) wire?.disconnect('this account was disabled or removed')
    },
    async close() {
      const closed = listeners.map(async listener => {
        const closing = once(listener, 'close')
        listener.close()
        await closing
      })
      for (const [socket, { wire }] of visitors) {
        if (wire) wire.disconnect('berth is stopping; what has begun is finished first')
        else socket.destroy()
      }
      await Promise.all(closed)
    }
  }
}

async function listenOn(listener: Server, address: string, { name, managePort }: NodeConfig): Promise<void> {
  listener.listen(managePort, address)
  try {
    await once(listener, 'listening')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    throw new UserError('port-taken', `Something else listens on ${address} port ${managePort}.`, {
      hint: `See what it is with: ss -ltnp 'sport = :${managePort}', or change nodes.${name}.managePort.`,
      cause: error
    })
  }
}
