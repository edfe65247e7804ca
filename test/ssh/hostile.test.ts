import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type ssh2 from 'ssh2'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { uint32, wireString } from '../../src/directory/wire.ts'
import { itLong } from '../suite.ts'
import { closing, startEndpoint, type Endpoint } from './endpoint.ts'

const MIB = 1024 * 1024
let endpoint: Endpoint

beforeAll(async () => {
  // The gate has tests of its own; here many strangers come from one address.
  const open = { begin: 1000, ratePercent: 30, full: 2000 }
  endpoint = await startEndpoint({ limits: { perAddress: open, overall: open, failures: 100_000 } })
})
afterEach(() => endpoint.stillServes())
afterAll(() => endpoint[Symbol.asyncDispose]())

interface ClientProtocol {
  readonly _packetRW: { write: { allocStart: number; alloc(size: number): Buffer; finalize(packet: Buffer): Buffer } }
  readonly _cipher: { encrypt(packet: Buffer): void }
  readonly _handlers: Record<string, (...values: unknown[]) => void>
  rekey(): void
}

/** ssh2's client without its manners. */
class Attacker {
  readonly client: ssh2.Client
  readonly socket: Socket
  readonly #protocol: ClientProtocol

  constructor(client: ssh2.Client) {
    const inside = client as unknown as { _sock: Socket; _protocol: ClientProtocol }
    this.client = client
    this.socket = inside._sock
    this.#protocol = inside._protocol
  }

  send(...payload: Buffer[]): void {
    const bytes = Buffer.concat(payload)
    const { write } = this.#protocol._packetRW
    const packet = write.alloc(bytes.length)
    bytes.copy(packet, write.allocStart)
    this.#protocol._cipher.encrypt(write.finalize(packet))
  }

  openSession(id: number, window: number, packetSize: number): void {
    this.send(Buffer.of(90), wireString('session'), uint32(id), uint32(window), uint32(packetSize))
  }

  request(channel: number, type: string, wantReply: boolean, ...rest: Buffer[]): void {
    this.send(Buffer.of(98), uint32(channel), wireString(type), Buffer.of(wantReply ? 1 : 0), ...rest)
  }

  exec(channel: number, line: string): void {
    this.request(channel, 'exec', true, wireString(line))
  }

  /** Starts a key exchange and never goes on with it. */
  beginKeyExchange(): void {
    this.#protocol.rekey()
  }

  /** Names of messages the server sends, from now on. */
  listen(...names: string[]): string[] {
    const seen: string[] = []
    for (const name of names)
      this.#protocol._handlers[name] = (_protocol, ...values) => seen.push([name, ...values.map(String)].join(' '))
    return seen
  }
}

const attack = async () => new Attacker(await endpoint.rawClient())

async function until(condition: () => boolean): Promise<void> {
  const deadlineMs = Date.now() + 15_000
  while (!condition()) {
    if (Date.now() > deadlineMs) throw new Error('not in time')
    await sleep(10)
  }
}

describe('before a login', () => {
  test('garbage in place of a version line', async () => {
    const inputs = [
      Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
      Buffer.from('\r\n\r\n\r\n'),
      Buffer.from('SSH-1.5-old\r\n'),
      Buffer.from('SSH-\r\n'),
      Buffer.from(`SSH-2.0-${'x'.repeat(300_000)}`),
      Buffer.alloc(100_000),
      Buffer.from('16030100a5010000a1', 'hex'),
      ...Array.from({ length: 30 }, () => randomBytes(5000))
    ]
    for (const input of inputs) {
      const socket = await endpoint.connect()
      socket.resume()
      socket.end(input)
      await closing(socket)
    }
    expect(endpoint.isAlive).toBe(true)
  })

  test('garbage in place of a key exchange', async () => {
    const packet = (payload: Buffer) => {
      const padding = 8 - ((5 + payload.length) % 8) + 8
      return Buffer.concat([uint32(1 + payload.length + padding), Buffer.of(padding), payload, Buffer.alloc(padding)])
    }
    const lists = (list: string) => Array<Buffer>(10).fill(wireString(list))
    const inputs = [
      uint32(0xffffffff),
      uint32(0),
      packet(Buffer.alloc(0)),
      packet(Buffer.of(20)),
      packet(Buffer.concat([Buffer.of(20), Buffer.alloc(16), ...lists('none'), Buffer.alloc(5)])),
      packet(Buffer.concat([Buffer.of(20), Buffer.alloc(16), ...lists(','.repeat(3000)), Buffer.alloc(5)])),
      packet(Buffer.concat([Buffer.of(30), wireString(Buffer.alloc(32))])),
      ...[1, 2, 4, 5, 6, 7, 21, 31, 50, 52, 80, 90, 94, 98, 255].map(type => packet(Buffer.of(type, 0, 0, 0, 255))),
      ...Array.from({ length: 60 }, (_, index) => randomBytes(1 + index * 90))
    ]
    for (const input of inputs) {
      const socket = await endpoint.connect()
      socket.resume()
      socket.write('SSH-2.0-attacker\r\n')
      socket.end(input)
      await closing(socket)
    }
    expect(endpoint.isAlive).toBe(true)
  })

  test('a client that goes away at any moment', async () => {
    const moments = [
      'Remote ident',
      'Handshake completed',
      'SERVICE_ACCEPT',
      'USERAUTH_SUCCESS',
      'CHANNEL_OPEN_CONFIRMATION',
      'CHANNEL_SUCCESS'
    ]
    const { default: library } = await import('ssh2')
    for (const moment of moments) {
      for (const kind of ['destroy', 'resetAndDestroy', 'end'] as const) {
        const client = new library.Client()
        const socket = await endpoint.connect()
        client.on('error', () => {})
        client.on('ready', () => client.exec('flood 3000000 3000000 0', () => {}))
        client.connect({
          sock: socket,
          username: 'alice',
          privateKey: endpoint.privateKey('alice'),
          debug: line => line.includes(moment) && setImmediate(() => socket[kind]())
        })
        await closing(socket)
      }
    }
    expect(endpoint.isAlive).toBe(true)
  })

  test('requests behind a sixth failure in the same segment are not looked at', async () => {
    await using own = await startEndpoint()
    const { default: library } = await import('ssh2')
    const client = new library.Client()
    client.on('error', () => {})
    const closed = closing(client)
    let success = false
    client.connect({
      host: '127.0.0.1',
      port: own.port,
      username: 'alice',
      authHandler: () => {
        const attacker = new Attacker(client)
        const protocol = (
          client as unknown as { _protocol: { _handlers: Record<string, () => void>; authPK: Function } }
        )._protocol
        protocol._handlers['USERAUTH_SUCCESS'] = () => (success = true)
        protocol._handlers['USERAUTH_FAILURE'] = () => {}
        attacker.socket.cork()
        for (let index = 0; index < 6; index++) {
          const password = [wireString('password'), Buffer.of(0), wireString('secret')]
          attacker.send(Buffer.of(50), wireString('alice'), wireString('ssh-connection'), ...password)
        }
        const key = library.utils.parseKey(own.privateKey('alice'))
        if (key instanceof Error) throw key
        protocol.authPK('alice', key, 'ssh-ed25519', (data: Buffer, done: (signature: Buffer) => void) =>
          done(key.sign(data))
        )
        attacker.socket.uncork()
      }
    })
    await closed
    expect(success).toBe(false)
    expect(own.log.join('')).toContain('login failed')
    expect(own.log.join('')).not.toContain('logged in')
  })
})

describe('after a login', () => {
  test('random messages of every type', async () => {
    for (let round = 0; round < 10; round++) {
      const attacker = await attack()
      attacker.openSession(0, 2 * MIB, 32768)
      for (let index = 0; index < 60; index++) {
        if (attacker.socket.destroyed) break
        const type = index % 2 === 0 ? 80 + Math.floor(Math.random() * 21) : Math.floor(Math.random() * 256)
        if (type === 20 || type === 21) continue
        attacker.send(
          Buffer.of(type),
          Buffer.from([0, 0, 0, Math.random() < 0.5 ? 0 : 255]),
          randomBytes(Math.floor(Math.random() * 60))
        )
      }
      await sleep(20)
      attacker.socket.destroy()
    }
    expect(endpoint.isAlive).toBe(true)
  })

  test('requests with odd values', async () => {
    const attacker = await attack()
    attacker.listen(
      'CHANNEL_OPEN_CONFIRMATION',
      'CHANNEL_SUCCESS',
      'CHANNEL_FAILURE',
      'CHANNEL_DATA',
      'CHANNEL_REQUEST',
      'CHANNEL_EOF'
    )
    const closed = attacker.listen('CHANNEL_CLOSE')
    attacker.openSession(0, 2 * MIB, 32768)
    const huge = Buffer.alloc(16, 0xff)
    attacker.request(0, 'pty-req', true, wireString('../../\u001B[2J'), huge, wireString(''))
    attacker.request(0, 'window-change', true, huge)
    attacker.request(0, 'env', true, wireString('LD_PRELOAD'), wireString('/tmp/x'))
    attacker.request(0, 'x11-req', true, Buffer.of(0), wireString('a'), wireString('b'), uint32(0))
    attacker.request(0, 'auth-agent-req@openssh.com', true)
    attacker.request(0, 'signal', true, wireString('\u0000'))
    attacker.exec(0, 'start')
    await until(() => closed.length > 0)
    attacker.socket.destroy()
    expect(endpoint.isAlive).toBe(true)
  })

  test('a second command in one session is refused, and data after the end of input ignored', async () => {
    const attacker = await attack()
    attacker.listen('CHANNEL_OPEN_CONFIRMATION', 'CHANNEL_DATA', 'CHANNEL_REQUEST', 'CHANNEL_EOF')
    const answers = attacker.listen('CHANNEL_SUCCESS', 'CHANNEL_FAILURE', 'CHANNEL_CLOSE')
    attacker.openSession(5, 2 * MIB, 32768)
    attacker.exec(0, 'wait 300')
    attacker.exec(0, 'wait 300')
    attacker.request(0, 'shell', true)
    attacker.request(0, 'subsystem', true, wireString('sftp'))
    attacker.send(Buffer.of(96), uint32(0))
    attacker.send(Buffer.of(94), uint32(0), wireString('late'))
    await until(() => answers.some(answer => answer.startsWith('CHANNEL_CLOSE')))
    expect(answers).toEqual([
      'CHANNEL_SUCCESS 5',
      'CHANNEL_FAILURE 5',
      'CHANNEL_FAILURE 5',
      'CHANNEL_FAILURE 5',
      'CHANNEL_CLOSE 5'
    ])
    attacker.socket.destroy()
  })

  test('packet sizes of nothing and next to nothing', async () => {
    const attacker = await attack()
    const answers = attacker.listen('CHANNEL_OPEN_FAILURE', 'CHANNEL_OPEN_CONFIRMATION')
    for (const size of [0, 1, 511]) attacker.openSession(size, 2 * MIB, size)
    await until(() => answers.length === 3)
    expect(answers.every(answer => answer.includes('the packet size is too small'))).toBe(true)
    attacker.socket.destroy()
  })

  itLong('sessions opened and closed again leave nothing behind', async () => {
    const attacker = await attack()
    const closed = attacker.listen('CHANNEL_CLOSE')
    attacker.listen('CHANNEL_OPEN_CONFIRMATION')
    const before = await endpoint.memoryBytes()
    for (let index = 0; index < 4000; index++) {
      attacker.openSession(index, 1000, 32768)
      attacker.send(Buffer.of(97), uint32(index))
      if (index % 500 === 0) await until(() => closed.length >= index - 500)
    }
    await until(() => closed.length === 4000)
    expect((await endpoint.memoryBytes()) - before).toBeLessThan(20 * MIB)
    attacker.socket.destroy()
  })

  test('more input than the window allows ends the connection', async () => {
    const attacker = await attack()
    attacker.listen('CHANNEL_OPEN_CONFIRMATION', 'CHANNEL_SUCCESS')
    attacker.openSession(0, 2 * MIB, 32768)
    attacker.exec(0, 'wait 30000')
    const before = await endpoint.memoryBytes()
    const block = wireString(Buffer.alloc(30_000))
    for (let index = 0; index < 10_000 && attacker.socket.writable; index++) {
      attacker.send(Buffer.of(94), uint32(0), block)
      if (attacker.socket.writableNeedDrain)
        await Promise.race([once(attacker.socket, 'drain'), closing(attacker.socket)])
    }
    expect(attacker.socket.writable).toBe(false)
    expect((await endpoint.memoryBytes()) - before).toBeLessThan(20 * MIB)
  })

  test('a command that is never read takes bounded memory, whatever the window; its writer learns of the end', async () => {
    await using own = await startEndpoint()
    const attacker = new Attacker(await own.rawClient())
    attacker.openSession(0, 0xffffffff, 0xffffffff)
    attacker.exec(0, 'endless')
    attacker.socket.pause()
    const before = await own.memoryBytes()
    await sleep(1500)
    expect((await own.memoryBytes()) - before).toBeLessThan(20 * MIB)
    expect(own.sawEvent('write-failed')).toBe(false)
    attacker.socket.destroy()
    expect((await own.event('write-failed'))['code']).toBe('EPIPE')
    await own.stillServes()
  })

  itLong('a key exchange that is begun and left takes bounded memory', async () => {
    await using own = await startEndpoint()
    const attacker = new Attacker(await own.rawClient())
    attacker.openSession(0, 0xffffffff, 32768)
    attacker.exec(0, 'endless')
    await sleep(200)
    const before = await own.memoryBytes()
    attacker.listen('CHANNEL_DATA')
    attacker.beginKeyExchange()
    attacker.socket.removeAllListeners('data')
    attacker.socket.resume()
    await sleep(1500)
    expect((await own.memoryBytes()) - before).toBeLessThan(20 * MIB)
    attacker.socket.destroy()
    await own.event('write-failed')
    await own.stillServes()
  })

  test('a client that has stopped answering is hung up on', async () => {
    await using own = await startEndpoint({ limits: { keepaliveMs: 200 } })
    const { child, outcome } = own.startSsh(['wait', '60000'])
    await own.event('waiting')
    await sleep(1500)
    expect(own.sawEvent('gone')).toBe(false)
    child.kill('SIGSTOP')
    await own.event('gone')
    child.kill('SIGCONT')
    expect((await outcome).exitCode).toBe(255)
    await own.stillServes()
  })

  test('answers that are never read take bounded memory', async () => {
    const attacker = await attack()
    attacker.socket.pause()
    const before = await endpoint.memoryBytes()
    const wanted = [Buffer.of(90), wireString('unknown'), uint32(1), uint32(1000), uint32(1000)]
    let isHeard = true
    for (let sent = 0; isHeard && sent < 200_000; sent += 500) {
      attacker.socket.cork()
      for (let index = 0; index < 500; index++) attacker.send(...wanted)
      attacker.socket.uncork()
      if (attacker.socket.writableNeedDrain)
        isHeard = await Promise.race([once(attacker.socket, 'drain').then(() => true), sleep(2000).then(() => false)])
    }
    // Not listened to any more, and not kept waiting in memory.
    expect(isHeard).toBe(false)
    expect((await endpoint.memoryBytes()) - before).toBeLessThan(20 * MIB)
    attacker.socket.destroy()
  })

  test('what stands behind a broken rule in the same segment is not run', async () => {
    await using own = await startEndpoint()
    const attacker = new Attacker(await own.rawClient())
    attacker.listen('CHANNEL_OPEN_CONFIRMATION', 'CHANNEL_REQUEST', 'CHANNEL_EOF', 'CHANNEL_CLOSE')
    const begun = attacker.listen('CHANNEL_SUCCESS')
    for (let id = 0; id < 16; id++) attacker.openSession(id, 2 * MIB, 32768)
    attacker.exec(0, 'wait 60000')
    await own.event('waiting')
    const closed = closing(attacker.socket)
    const send = (size: number) => attacker.send(Buffer.of(94), uint32(0), wireString(Buffer.alloc(size)))
    // The window of 2 MiB is renewed once while the session buffers, so the end comes at about 4.2 MB.
    for (let times = 0; times < 408; times++) send(10_000)
    for (let channel = 1; channel < 16 && !attacker.socket.destroyed; channel++) {
      attacker.socket.cork()
      send(16_000)
      attacker.exec(channel, 'exit 0')
      attacker.socket.uncork()
      await sleep(20)
    }
    await closed
    await own.stillServes()
    // Each command that runs is answered, the first one too.
    const run = own.events('run').filter(({ verb }) => verb === 'exit')
    expect(begun.length).toBeGreaterThan(1)
    expect(run.length).toBe(begun.length - 1)
  })
})
