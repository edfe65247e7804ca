import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { apiPath } from '../../src/lxd/api-path.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { Transport } from '../../src/lxd/transport.ts'
import { makeIdentity } from './servers.ts'

const directory = mkdtempSync(join(tmpdir(), 'berth-transport-'))
afterAll(() => rmSync(directory, { recursive: true }))

test('a server that answers is not absent because this process was busy meanwhile', async () => {
  const path = join(directory, 'lxd.socket')
  const server = createServer(socket => socket.destroy()).listen(path)
  await once(server, 'listening')
  const transport = new Transport({ url: `unix://${path}` })
  const connecting = transport.connect()
  // Blocks the event loop for longer than a connection may take.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3000)
  const socket = await connecting
  expect(socket.connecting).toBe(false)
  socket.destroy()
  await transport.close()
  server.close()
})

const PART_BYTES = 2 ** 20

/** Reads what it is sent slowly, and answers with its SHA-256. No real server can be slowed down at will. */
async function answerSlowly(asked: IncomingMessage, reply: ServerResponse): Promise<void> {
  const hash = createHash('sha256')
  for await (const chunk of asked) {
    hash.update(chunk as Buffer)
    await sleep(1)
  }
  reply.end(JSON.stringify({ type: 'sync', status_code: 200, metadata: hash.digest('hex') }))
}
const listener = (asked: IncomingMessage, reply: ServerResponse) => void answerSlowly(asked, reply)

test.each(['unix', 'https'])('each part of a body has been sent when the next is asked for: %s', async kind => {
  const { cert, key } = await makeIdentity()
  const server = kind === 'unix' ? createHttpServer(listener) : createHttpsServer({ cert, key }, listener)
  const path = join(directory, 'slow.socket')
  server.listen(...((kind === 'unix' ? [path] : [0, '127.0.0.1']) as [string]))
  await once(server, 'listening')
  const url = kind === 'unix' ? `unix://${path}` : `https://127.0.0.1:${(server.address() as AddressInfo).port}`
  const lxd = new LxdClient({ url, tls: { cert, key, serverCertificate: cert } })
  const expected = createHash('sha256')
  async function* parts() {
    const memory = Buffer.alloc(PART_BYTES)
    for (let number = 0; number < 12; number++) {
      expected.update(memory.fill(number))
      yield memory
      memory.fill('used again')
    }
  }
  const { body } = await lxd.raw('POST', apiPath`/1.0/instances`, { content: parts() })
  expect(JSON.parse(body.toString())).toMatchObject({ metadata: expected.digest('hex') })
  await lxd.close()
  server.close()
})
