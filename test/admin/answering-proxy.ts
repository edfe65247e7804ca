import { createServer, request, type Server } from 'node:http'
import { once } from 'node:events'
import { rmSync } from 'node:fs'

interface Answer {
  path: string
  headers: Record<string, string | string[] | undefined>
  /** The whole document, changed in place. */
  body: { metadata: Record<string, unknown> }
}

/** Stands before a real server and changes what it says: faults that this machine cannot be given (another clock, a GPU). */
export async function startAnsweringProxy(
  socketPath: string,
  proxyPath: string,
  change: (answer: Answer) => void
): Promise<AsyncDisposable> {
  const server: Server = createServer((asked, reply) => {
    const { method, url = '/', headers } = asked
    const passed = request({ socketPath, method, path: url, headers }, async answer => {
      const chunks = await answer.toArray()
      const told: Answer = {
        path: url.split('?')[0] ?? '',
        headers: answer.headers,
        body: JSON.parse(Buffer.concat(chunks as Buffer[]).toString()) as Answer['body']
      }
      change(told)
      const { 'content-length': _length, ...rest } = told.headers
      reply.writeHead(answer.statusCode ?? 500, rest).end(JSON.stringify(told.body))
    })
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
