import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { createServer, type IncomingMessage, request, type Server } from 'node:http'

interface Answer {
  readonly method: string
  readonly path: string
  status: number
  headers: Record<string, string | string[] | undefined>
  /** The whole document, changed in place. */
  body: { metadata: Record<string, unknown>; [field: string]: unknown }
}

/**
 * Stands before a real server and changes what it says: faults that this machine cannot be given (another clock, a GPU) or
 * not at will (a race within the server).
 */
export async function startAnsweringProxy(
  socketPath: string,
  proxyPath: string,
  change: (answer: Answer) => void
): Promise<AsyncDisposable> {
  const server: Server = createServer((asked, reply) => {
    const { method, url = '/', headers } = asked
    const passOn = async (answer: IncomingMessage): Promise<void> => {
      const chunks = (await answer.toArray()) as Buffer[]
      const told: Answer = {
        method: String(method),
        path: url.split('?')[0] ?? '',
        status: answer.statusCode ?? 500,
        headers: answer.headers,
        body: JSON.parse(Buffer.concat(chunks).toString()) as Answer['body']
      }
      change(told)
      const { 'content-length': _length, ...rest } = told.headers
      reply.writeHead(told.status, rest).end(JSON.stringify(told.body))
    }
    const passed = request({ socketPath, method, path: url, headers })
    passed.on('response', answer => void passOn(answer).catch((error: Error) => reply.destroy(error)))
    passed.on('error', error => reply.destroy(error))
    asked.pipe(passed)
  }).listen(proxyPath)
  await once(server, 'listening')
  return {
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
      rmSync(proxyPath, { force: true })
    }
  }
}
