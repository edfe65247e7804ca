import type { Socket } from 'node:net'
import { createRequire } from 'node:module'
import type ssh2 from 'ssh2'
import { uint32, wireString } from '../directory/wire.ts'
import { SIGNATURES } from './algorithms.ts'
import type { Outgoing } from './channel-writer.ts'

/** The parts of ssh2's insides that berth touches: the reason for pinning its exact version. */
interface Protocol {
  _kexinit: unknown
  _kex: { remoteExtInfoEnabled: boolean }
  _onHandshakeComplete(...results: unknown[]): void
  readonly _packetRW: {
    readonly write: {
      readonly allocStart: number
      readonly allocStartKEX: number
      alloc(size: number, force?: boolean): Buffer
      finalize(packet: Buffer, force?: boolean): Buffer
    }
  }
  readonly _handlers: Handlers
  disconnect(reason: number): void
  channelData(id: number, data: Buffer): void
  channelExtData(id: number, data: Buffer, type: number): void
  channelEOF(id: number): void
  channelClose(id: number): void
  channelFailure(id: number): void
  channelOpenFail(id: number, reason: number, description: string): void
  exitStatus(id: number, status: number): void
}

interface ChannelOpen {
  readonly type: string
  readonly sender: number
  readonly packetSize: number
}

interface Handlers {
  CHANNEL_OPEN(protocol: Protocol, info: ChannelOpen): void
  CHANNEL_DATA(protocol: Protocol, recipient: number, data: Buffer): void
  CHANNEL_WINDOW_ADJUST(protocol: Protocol, recipient: number, amount: number): void
  CHANNEL_REQUEST(protocol: Protocol, recipient: number, type: string, wantReply: boolean, data: unknown): void
  CHANNEL_CLOSE(protocol: Protocol, recipient: number): void
}

/** ssh2's server side session, with or without a running channel. */
interface ChannelEnds {
  readonly incoming: { readonly id: number; window: number; state: string }
  readonly outgoing: Outgoing
}

interface Internals {
  readonly _sock: Socket
  readonly _protocol: Protocol
  readonly _chanMgr: { get(id: number): unknown; remove(id: number): void }
}

type Session = { readonly _chanInfo: ChannelEnds; readonly _channel?: ChannelEnds }

const require = createRequire(import.meta.url)
const { sendPacket } = require('ssh2/lib/protocol/utils.js') as {
  sendPacket(protocol: Protocol, packet: Buffer, bypass?: boolean): boolean
}

const EXT_INFO = 7
const USERAUTH_BANNER = 53
const DISCONNECT = 1
const PROTOCOL_ERROR = 2
const BY_APPLICATION = 11
const STDERR = 1
const ADMINISTRATIVELY_PROHIBITED = 1
const RESOURCE_SHORTAGE = 4
const MIN_PACKET_BYTES = 512
/** Answers a client makes us send faster than it reads them: above this, it is not listened to until it has read. */
const MAX_UNREAD_BYTES = 2 * 1024 * 1024
/** OpenSSH's MaxSessions is 10. */
const MAX_SESSIONS = 16

export const socketOf = (client: ssh2.Connection): Socket => (client as unknown as Internals)._sock

/**
 * The one place that reaches into ssh2. It gives a connection what ssh2 lacks: banners and reasons, a writer that honours
 * windows and TCP, and limits that the protocol states but ssh2 does not enforce.
 */
export class Wire {
  alive = true
  readonly #client: ssh2.Connection
  readonly #socket: Socket
  readonly #protocol: Protocol
  readonly #channels: Internals['_chanMgr']
  /** Ids of the open sessions, ours. */
  readonly #sessions = new Set<number>()
  readonly #wakeUps = new Set<() => void>()
  readonly #endings = new Set<() => void>()

  /** @param onSession is called for each session channel (RFC 4254 section 6.1) the client may have */
  constructor(client: ssh2.Connection, onSession: (session: ssh2.Session) => void) {
    const { _sock, _protocol, _chanMgr } = client as unknown as Internals
    this.#client = client
    this.#socket = _sock
    this.#protocol = _protocol
    this.#channels = _chanMgr
    this.#announceSignatures()
    this.#guardHandlers()
    this.#guardSocket()
    this.#protocol.disconnect = reason => this.#sendDisconnect(reason, 'protocol error')
    client.on('session', accept => {
      const session = accept()
      this.#sessions.add((session as unknown as Session)._chanInfo.incoming.id)
      onSession(session)
    })
  }

  /** Bytes accepted by us and not yet by the network. */
  get waitingBytes(): number {
    return this.#socket.writableLength
  }

  /** While a client exchanges keys ssh2 queues without bound what it is given. */
  get rekeying(): boolean {
    return this.#protocol._kexinit !== undefined
  }

  /** A channel's sending half, which ssh2 keeps up to date. */
  outgoingOf(channel: ssh2.ServerChannel): Outgoing {
    return (channel as unknown as ChannelEnds).outgoing
  }

  sendData(id: number, data: Buffer, isError: boolean): void {
    this.#bundle()
    if (isError) this.#protocol.channelExtData(id, data, STDERR)
    else this.#protocol.channelData(id, data)
  }

  sendExit(id: number, exitCode: number): void {
    this.#bundle()
    this.#protocol.exitStatus(id, exitCode >>> 0)
    this.#protocol.channelEOF(id)
    this.#protocol.channelClose(id)
  }

  /** RFC 4252 section 5.4: text for the person, any time before the login succeeds. */
  sendBanner(text: string): void {
    if (!this.alive || this.rekeying) return
    this.#send(Buffer.concat([Buffer.of(USERAUTH_BANNER), wireString(`${text}\n`), wireString('')]))
  }

  /** Says why and hangs up (RFC 4253 section 11.1); the text is shown by OpenSSH. */
  disconnect(text: string): void {
    if (!this.alive) return
    this.#sendDisconnect(BY_APPLICATION, text)
    this.#hangUp()
  }

  /** Runs `wake` whenever more may be sent, and `end` once when nothing can be any more. Returns the undoing. */
  follow(wake: () => void, end: () => void): () => void {
    if (!this.alive) end()
    this.#wakeUps.add(wake)
    this.#endings.add(end)
    return () => {
      this.#wakeUps.delete(wake)
      this.#endings.delete(end)
    }
  }

  #send(payload: Buffer, bypass = false): void {
    const { write } = this.#protocol._packetRW
    const packet = write.alloc(payload.length, bypass)
    payload.copy(packet, bypass ? write.allocStartKEX : write.allocStart)
    sendPacket(this.#protocol, write.finalize(packet, bypass), bypass)
  }

  #sendDisconnect(reason: number, text: string): void {
    if (this.alive)
      this.#send(Buffer.concat([Buffer.of(DISCONNECT), uint32(reason), wireString(text), wireString('')]), true)
  }

  /** Ends the connection so that the last packet arrives: a reset, caused by bytes nobody reads, would overtake it. */
  #hangUp(): void {
    if (!this.alive) return
    this.#die()
    this.#socket.removeAllListeners('data')
    this.#socket.resume()
    if (!this.#socket.writableEnded) this.#socket.end()
    setTimeout(() => this.#socket.destroy(), 1000).unref()
  }

  /** What is sent in one turn leaves in one piece: each piece costs a system call here and a waking up there. */
  #bundle(): void {
    if (this.#socket.writableCorked > 0) return
    this.#socket.cork()
    process.nextTick(() => this.#socket.uncork())
  }

  #die(): void {
    if (!this.alive) return
    this.alive = false
    for (const end of this.#endings) end()
    this.#wakeUps.clear()
    this.#endings.clear()
  }

  #wake(): void {
    for (const wake of this.#wakeUps) wake()
  }

  /** In place of ssh2's own list, which lacks a comma, and with it rsa-sha2-512 (RFC 8308 section 3.1). */
  #announceSignatures(): void {
    const complete = this.#protocol._onHandshakeComplete
    this.#protocol._onHandshakeComplete = (...results) => {
      this.#protocol._onHandshakeComplete = complete
      const isWanted = this.#protocol._kex.remoteExtInfoEnabled
      this.#protocol._kex.remoteExtInfoEnabled = false
      complete(...results)
      if (isWanted)
        this.#send(
          Buffer.concat([Buffer.of(EXT_INFO), uint32(1), wireString('server-sig-algs'), wireString(SIGNATURES.join())])
        )
    }
  }

  #guardSocket(): void {
    this.#socket.prependListener('data', () => this.#bundle())
    // Without a listener an `error` ends the process. ssh2 reports here garbage, resets, and missing keepalive answers.
    this.#client.on('error', ({ message }) => {
      this.#sendDisconnect(PROTOCOL_ERROR, `${message} (a command line may have 4096 bytes at most)`)
      this.#hangUp()
    })
    this.#client.on('end', () => this.#hangUp())
    this.#client.on('close', () => this.#die())
    this.#client.on('rekey', () => this.#wake())
    this.#socket.on('drain', () => {
      this.#socket.resume()
      this.#wake()
    })
    this.#socket.on('data', () => {
      if (this.#socket.writableLength > MAX_UNREAD_BYTES) this.#socket.pause()
    })
  }

  #guardHandlers(): void {
    const handlers = this.#protocol._handlers
    const original = { ...handlers }
    const session = (id: number) => this.#channels.get(id) as Session | undefined
    handlers.CHANNEL_OPEN = (protocol, info) => {
      const refuse = (reason: number, text: string) => protocol.channelOpenFail(info.sender, reason, text)
      if (info.type !== 'session')
        return refuse(ADMINISTRATIVELY_PROHIBITED, 'forwarding is not for this host: use the container')
      // A packet size of 0 would make every sender loop for ever.
      if (info.packetSize < MIN_PACKET_BYTES) return refuse(RESOURCE_SHORTAGE, 'the packet size is too small')
      if (this.#sessions.size >= MAX_SESSIONS)
        return refuse(RESOURCE_SHORTAGE, `one connection may have ${MAX_SESSIONS} sessions`)
      original.CHANNEL_OPEN(protocol, info)
    }
    handlers.CHANNEL_DATA = (protocol, id, data) => {
      const channel = session(id)?._channel
      if (channel?.incoming.state !== 'open') return
      if (data.length > channel.incoming.window) return this.disconnect('more data than the window allows')
      original.CHANNEL_DATA(protocol, id, data)
    }
    handlers.CHANNEL_WINDOW_ADJUST = (protocol, id, amount) => {
      original.CHANNEL_WINDOW_ADJUST(protocol, id, amount)
      this.#wake()
    }
    handlers.CHANNEL_REQUEST = (protocol, id, type, wantReply, data) => {
      if (!this.alive) return
      const running = session(id)?._channel
      // ssh2 leaves requests to a running session without the answer they ask for.
      if (running && type !== 'signal' && type !== 'window-change') {
        if (wantReply) protocol.channelFailure(running.outgoing.id)
      } else original.CHANNEL_REQUEST(protocol, id, type, wantReply, data)
    }
    handlers.CHANNEL_CLOSE = (protocol, id) => {
      const closed = session(id)
      original.CHANNEL_CLOSE(protocol, id)
      this.#sessions.delete(id)
      // A session closed before it ran anything would stay with ssh2 for ever, and the client without its answer.
      if (closed && !closed._channel) {
        this.#channels.remove(id)
        protocol.channelClose(closed._chanInfo.outgoing.id)
      }
    }
  }
}
