import { once } from 'node:events'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WireReader } from '../../src/directory/wire.ts'
import { startEndpoint, type Endpoint } from './endpoint.ts'

let endpoint: Endpoint

beforeAll(async () => {
  endpoint = await startEndpoint()
})
afterAll(() => endpoint[Symbol.asyncDispose]())

test('what is offered, in its order', async () => {
  const socket = await endpoint.connect()
  let received: Buffer = Buffer.alloc(0)
  socket.on('data', chunk => (received = Buffer.concat([received, chunk])))
  socket.write('SSH-2.0-observer\r\n')
  while (!received.includes('\r\n') || received.length < 500) await once(socket, 'data')
  socket.destroy()
  const start = received.indexOf('\r\n') + 2
  const reader = new WireReader(received.subarray(start + 5))
  expect(received.subarray(0, start - 2).toString()).toBe('SSH-2.0-berth')
  expect(reader.byte()).toBe(20)
  reader.take(16)
  const ciphers =
    'aes256-gcm@openssh.com,aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr'
  const macs = 'hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com'
  expect(Array.from({ length: 10 }, () => reader.text())).toEqual([
    'curve25519-sha256@libssh.org,curve25519-sha256,kex-strict-s-v00@openssh.com',
    'ssh-ed25519',
    ...[ciphers, ciphers, macs, macs, 'none', 'none', '', '']
  ])
})

test.each([
  'aes256-gcm@openssh.com',
  'aes128-gcm@openssh.com',
  'chacha20-poly1305@openssh.com',
  'aes256-ctr',
  'aes192-ctr',
  'aes128-ctr'
])('a session with %s, and with each MAC where it has one', async cipher => {
  for (const mac of cipher.endsWith('ctr')
    ? ['hmac-sha2-512-etm@openssh.com', 'hmac-sha2-256-etm@openssh.com']
    : ['']) {
    const options = ['-o', `Ciphers=${cipher}`, ...(mac ? ['-o', `MACs=${mac}`] : [])]
    const { stdout, exitCode } = await endpoint.ssh(['flood', '300000', '0', '5'], { options })
    expect([stdout.length, stdout.slice(-7), exitCode]).toEqual([300_000, 'OUT-END', 5])
  }
})

test.each([
  'Ciphers=aes128-cbc',
  'MACs=hmac-sha1',
  'MACs=hmac-sha1-etm@openssh.com',
  'KexAlgorithms=diffie-hellman-group14-sha1',
  'KexAlgorithms=diffie-hellman-group-exchange-sha256',
  'HostKeyAlgorithms=ssh-rsa',
  'HostKeyAlgorithms=rsa-sha2-512'
])('%s is not agreed upon', async option => {
  const extra = option.startsWith('MACs') ? ['-o', 'Ciphers=aes128-ctr'] : []
  const { stderr, exitCode } = await endpoint.ssh([], { options: ['-o', option, '-o', 'LogLevel=INFO', ...extra] })
  expect(stderr).toContain('no matching')
  expect(exitCode).toBe(255)
})

test('compression is not used even when the client wants it', async () => {
  const { stdout, exitCode } = await endpoint.ssh(['say', 'out', 'x'], { options: ['-C', '-o', 'RekeyLimit=1M'] })
  expect([stdout, exitCode]).toEqual(['x\n', 0])
})
