import { randomBytes } from 'node:crypto'
import csrf from '@fastify/csrf-protection'
import helmet from '@fastify/helmet'
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { UserError } from '../errors.ts'
import type { SiteParts } from './site.ts'
import { cookieName, isSecure } from './visitor.ts'

/** For all requests of an address: a whole lab may sit behind one. */
const REQUESTS_A_MINUTE = 1200
/** Of what tries passwords, links or codes. */
const TRIES_A_MINUTE = 30
export const tries = { config: { rateLimit: { max: TRIES_A_MINUTE, timeWindow: 60_000 } } }

const READS = new Set(['GET', 'HEAD', 'OPTIONS'])

/** The walls in front of every route: headers, rate limits, and no change without a token from a page of ours. */
export async function addProtection(app: FastifyInstance, parts: SiteParts): Promise<void> {
  const secure = isSecure(parts)
  await app.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
        imgSrc: ["'self'"],
        connectSrc: ["'self'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
        baseUri: ["'none'"]
      }
    },
    referrerPolicy: { policy: 'no-referrer' },
    strictTransportSecurity: secure && { maxAge: 180 * 24 * 3600, includeSubDomains: false }
  })
  await app.register(rateLimit, {
    max: REQUESTS_A_MINUTE,
    timeWindow: 60_000,
    cache: 20_000,
    errorResponseBuilder: () => new UserError('too-many-tries', undefined, { hint: 'Wait a minute.' })
  })
  await app.register(csrf, {
    cookieKey: cookieName(parts, 'berth-form'),
    cookieOpts: { path: '/', httpOnly: true, sameSite: 'lax', secure },
    getUserInfo: formOwner,
    // Forms do not outlive the process; the page says so and has a new one.
    csrfOpts: { hmacKey: randomBytes(32).toString('base64') }
  })
  // Of every route, whatever it forgets; what shows an access token is not a browser lured here.
  app.addHook('preHandler', (request, reply, done) => {
    if (READS.has(request.method) || request.visitor.scopes) done()
    else app.csrfProtection(request, reply, done)
  })
  // What a page says is for its reader, now.
  app.addHook('onSend', async (_request, reply) => {
    if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-store')
  })
}

/** Whose forms are meant: a token from before signing in, or of somebody else, is worth nothing after. */
export const formOwner = ({ session, visitor }: FastifyRequest): string =>
  visitor.user ? session.sessionId : 'a visitor'
