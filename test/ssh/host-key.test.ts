import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generateHostKey, loadOrCreateHostKey } from '../../src/ssh/host-key.ts'
import { probeHostKey } from '../../src/ssh/probe-host-key.ts'
import { startEndpoint } from './endpoint.ts'

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-host-'))
})
afterAll(() => rmSync(directory, { recursive: true }))

test.each([
  ['ed25519', 'ssh-ed25519'],
  ['ecdsa', 'ecdsa-sha2-nistp256']
] as const)('generated %s keys are what OpenSSH takes for them', (type, name) => {
  for (let round = 0; round < 40; round++) {
    const { privateKey, publicKey } = generateHostKey(type)
    const file = join(directory, `generated-${type}`)
    rmSync(file, { force: true })
    writeFileSync(file, privateKey, { mode: 0o600 })
    const derived = execFileSync('ssh-keygen', ['-y', '-f', file], { encoding: 'utf8' })
    expect(derived.split(' ').slice(0, 2).join(' ').trim()).toBe(publicKey)
    expect(publicKey).toMatch(new RegExp(`^${name} AAAA\\S+$`))
  }
})

test('generated ed25519 keys keep their leading zero bytes', () => {
  const lengths = new Set<number>()
  for (let round = 0; round < 3000; round++) {
    lengths.add(Buffer.from(generateHostKey('ed25519').publicKey.split(' ')[1] ?? '', 'base64').length)
  }
  expect([...lengths]).toEqual([51])
})

describe('the host key of the endpoints', () => {
  test('is made once, readable by its owner alone, and stays', () => {
    const path = join(directory, 'made')
    const made = loadOrCreateHostKey(path)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(loadOrCreateHostKey(path)).toEqual(made)
    expect(execFileSync('ssh-keygen', ['-y', '-f', path], { encoding: 'utf8' }).trim()).toBe(made.publicKey)
  })

  test('is the same for processes that make it at the same time, and nothing half-made remains', async () => {
    const place = mkdtempSync(join(directory, 'race-'))
    const program = `
      import { loadOrCreateHostKey } from ${JSON.stringify(join(import.meta.dirname, '../../src/ssh/host-key.ts'))}
      process.stdin.once('data', () => { console.log(loadOrCreateHostKey(${JSON.stringify(join(place, 'key'))}).publicKey); process.exit() })
      console.log('ready')`
    const children = Array.from({ length: 4 }, () => spawn(process.execPath, ['--input-type=module', '-e', program]))
    await Promise.all(children.map(child => once(child.stdout, 'data')))
    for (const child of children) child.stdin.write('go')
    const keys = await Promise.all(children.map(async child => String((await once(child.stdout, 'data'))[0]).trim()))
    await Promise.all(children.map(async child => child.exitCode ?? (await once(child, 'close'))))
    expect(new Set(keys).size).toBe(1)
    expect(readdirSync(place)).toEqual(['key'])
  })

  test('a file with something else in it is named, not replaced', () => {
    const path = join(directory, 'wrong')
    writeFileSync(path, 'something else')
    expect(() => loadOrCreateHostKey(path)).toThrow(`${path} holds no SSH private key`)
    expect(readFileSync(path, 'utf8')).toBe('something else')
    const other = join(directory, 'ecdsa')
    writeFileSync(other, generateHostKey('ecdsa').privateKey)
    expect(() => loadOrCreateHostKey(other)).toThrow('not ssh-ed25519')
    chmodSync(other, 0o600)
  })
})

describe('asking a server for its host key', () => {
  test('gives the key the server shows', async () => {
    await using endpoint = await startEndpoint()
    const { stdout } = await endpoint.run('ssh-keyscan', ['-p', String(endpoint.port), '127.0.0.1'])
    const key = await probeHostKey('127.0.0.1', endpoint.port, { timeoutMs: 5000 })
    expect(key.type).toBe('ssh-ed25519')
    expect(stdout).toContain(` ${key.publicKey}\n`)
    await endpoint.stillServes()
  })

  test('says what happened instead', async () => {
    await using silent = await listen(() => {})
    await using closing = await listen(socket => socket.end())
    await using web = await listen(socket => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
    const probe = ({ port }: { port: number }) => probeHostKey('127.0.0.1', port, { timeoutMs: 500 })
    await expect(probe(silent)).rejects.toThrow(`127.0.0.1:${silent.port}: no SSH answer within 500 ms`)
    await expect(probe(closing)).rejects.toThrow('Connection lost before handshake')
    await expect(probe(web)).rejects.toThrow(`127.0.0.1:${web.port}: `)
    const free = closing.port
    await closing[Symbol.asyncDispose]()
    await expect(probe({ port: free })).rejects.toThrow('ECONNREFUSED')
  })

  test('lets no server choose a prime that takes minutes to test', async () => {
    const said = Promise.withResolvers<string>()
    await using server = await listen(socket => {
      socket.write('SSH-2.0-hostile\r\n')
      let text = ''
      socket.on('data', chunk => {
        text += chunk.toString('latin1')
        if (text.includes('aes')) said.resolve(text)
      })
    })
    await expect(probeHostKey('127.0.0.1', server.port, { timeoutMs: 500 })).rejects.toThrow('no SSH answer')
    const offer = await said.promise
    expect(offer).toContain('curve25519-sha256')
    expect(offer).not.toContain('diffie-hellman')
  })

  test('ends at once when its signal does', async () => {
    await using silent = await listen(() => {})
    const stop = new AbortController()
    const probing = probeHostKey('127.0.0.1', silent.port, { timeoutMs: 20_000, signal: stop.signal })
    setTimeout(() => stop.abort(new Error('no longer wanted')), 50)
    await expect(probing).rejects.toThrow('no longer wanted')
  })
})

async function listen(onConnection: (socket: Socket) => void): Promise<AsyncDisposable & { port: number }> {
  const sockets = new Set<Socket>()
  const server: Server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.resume()
    onConnection(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as { port: number }).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      if (!server.listening) return
      const closed = once(server, 'close')
      server.close()
      await closed
    }
  }
}
