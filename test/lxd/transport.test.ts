import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Transport } from '../../src/lxd/transport.ts'

test('a server that answers is not absent because this process was busy meanwhile', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-transport-'))
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
  rmSync(directory, { recursive: true })
})
