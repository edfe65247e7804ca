import { readFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import cookie from '@fastify/cookie'
import formbody from '@fastify/formbody'
import multipart from '@fastify/multipart'
import Fastify, { LogController, type FastifyInstance } from 'fastify'
import type { Config } from '../config.ts'
import { UserError } from '../errors.ts'
import { addAdminUsers } from './admin-users.ts'
import { addAuditPage } from './audit-page.ts'
import { addNodesPage } from './nodes-page.ts'
import { addApi } from './api.ts'
import { addAccessTokenPage } from './access-token-page.ts'
import { addConfigPage } from './config-page.ts'
import { limitConnections } from './connections.ts'
import { addContainersPage } from './containers-page.ts'
import { addGuidePage } from './guide-page.ts'
import { KeyChanges } from './key-changes.ts'
import { addKeysPage } from './keys-page.ts'
import { addLayout } from './layout.ts'
import { Pages } from './pages.ts'
import { addProtection } from './protection.ts'
import { addSignIn } from './sign-in.ts'
import type { SiteParts, WebServerParts } from './site.ts'
import { addVisitor } from './visitor.ts'

/** Keys are short; a form with many of them fits, and a file of them too. */
const MAX_BODY_BYTES = 128 * 1024
const MAX_FIELD_BYTES = 64 * 1024

export interface WebServer {
  /** Where it listens: `http://127.0.0.1:8080`. */
  readonly url: string
  /** Stops listening; what is being answered is answered. */
  close(): Promise<void>
}

/** The web pages and the API. @throws UserError `port-taken`; `bad-config` when its certificate cannot be read */
export async function startWebServer(parts: WebServerParts): Promise<WebServer> {
  const { listen, config } = parts
  const app = await createSite({ ...parts, pages: new Pages() })
  try {
    await app.listen(listen)
  } catch (error) {
    await app.close()
    throw new UserError('port-taken', `web.listen: ${(error as Error).message}.`, {
      hint: 'Choose another address and port, or write: web: { listen: off }',
      cause: error
    })
  }
  const { port } = app.server.address() as AddressInfo
  const host = listen.host.includes(':') ? `[${listen.host}]` : listen.host
  return { url: `${config.web.tls ? 'https' : 'http'}://${host}:${port}`, close: () => app.close() }
}

async function createSite(parts: SiteParts): Promise<FastifyInstance> {
  const { config, log } = parts
  const app = Fastify({
    ...(config.web.tls && { https: readTls(config.web.tls) }),
    loggerInstance: log.child({ part: 'web' }, { level: 'warn' }),
    logController: new LogController({ disableRequestLogging: true }),
    trustProxy: config.web.trustProxy.length > 0 ? config.web.trustProxy : false,
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: 30_000,
    connectionTimeout: 60_000,
    forceCloseConnections: 'idle',
    genReqId: () => randomBytes(4).toString('hex'),
    routerOptions: { maxParamLength: 200, ignoreTrailingSlash: true }
  }) as unknown as FastifyInstance
  limitConnections(app.server, config.web.trustProxy)

  await app.register(cookie)
  await app.register(formbody, { bodyLimit: MAX_FIELD_BYTES })
  await app.register(multipart, {
    attachFieldsToBody: 'keyValues',
    limits: {
      fields: 10,
      fieldNameSize: 50,
      fieldSize: MAX_FIELD_BYTES,
      files: 1,
      fileSize: MAX_FIELD_BYTES,
      parts: 12
    }
  })
  addLayout(app, parts)
  await addVisitor(app, parts)
  await addProtection(app, parts)
  const keyChanges = new KeyChanges(parts.containers, log)
  addSignIn(app, parts)
  addKeysPage(app, parts, keyChanges)
  addConfigPage(app, parts)
  addContainersPage(app, parts)
  addGuidePage(app, parts)
  addAccessTokenPage(app, parts)
  addAdminUsers(app, parts)
  addNodesPage(app, parts)
  addAuditPage(app, parts)
  await addApi(app, parts, keyChanges)
  app.addHook('onResponse', (request, reply, done) => {
    // The route and not the address: a link's address is its secret.
    log.info(
      {
        session: `web-${request.id}`,
        method: request.method,
        route: request.routeOptions.url,
        status: reply.statusCode,
        user: request.visitor?.user?.name,
        address: request.ip,
        durationMs: Math.round(reply.elapsedTime)
      },
      'web'
    )
    done()
  })
  return app
}

function readTls({ cert, key }: NonNullable<Config['web']['tls']>): { cert: Buffer; key: Buffer } {
  try {
    return { cert: readFileSync(cert), key: readFileSync(key) }
  } catch (error) {
    throw new UserError('bad-config', `web.tls: ${(error as Error).message}`, { cause: error })
  }
}
