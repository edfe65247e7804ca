import { once } from 'node:events'
import { createServer } from 'node:net'

/** A port nobody listens on at the moment. */
export async function freePort(address = '0.0.0.0'): Promise<number> {
  const server = createServer().listen(0, address)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
