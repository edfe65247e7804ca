import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, it } from 'vitest'
import { openSite } from './site.ts'

it('one address holds no more connections than its share, and the others are served', async () => {
  // Loopback is a proxy's unless said.
  await using site = await openSite({ web: { trustProxy: ['192.0.2.1'] } })
  const port = Number(new URL(site.url).port)
  const open = new Set<Socket>()
  const visit = async (localAddress: string): Promise<Socket> => {
    const socket = connect({ host: '127.0.0.1', port, localAddress })
    open.add(socket)
    socket.on('close', () => open.delete(socket)).on('error', () => {})
    await once(socket, 'connect')
    return socket
  }
  for (let count = 0; count < 300; count++) await visit('127.0.0.2')
  await expect.poll(() => open.size).toBe(256)
  const [another] = open
  const other = await visit('127.0.0.3')
  other.end('GET / HTTP/1.0\r\nHost: localhost\r\n\r\n')
  expect(await text(other)).toMatch(/^HTTP\/1.1 200 /)

  // Who hangs up makes room.
  another?.destroy()
  await expect
    .poll(async () => {
      const socket = await visit('127.0.0.2')
      socket.end('GET / HTTP/1.0\r\nHost: localhost\r\n\r\n')
      return await text(socket).catch(() => '')
    })
    .toMatch(/^HTTP\/1.1 200 /)
  for (const socket of open) socket.destroy()
})
