import session from '@fastify/session'
import { randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { UserError } from '../errors.ts'
import { isLanguage, preferredLanguage, type Language } from './language.ts'
import { SESSION_MS } from './sessions.ts'
import type { SiteParts } from './site.ts'

const YEAR_S = 365 * 24 * 3600

/** Are the pages seen over HTTPS, here or through a proxy? */
export const isSecure = ({ config: { web } }: SiteParts): boolean =>
  web.tls !== undefined || (web.publicUrl?.startsWith('https:') ?? false)

/** `__Host-` keeps other hosts of the domain from planting the cookie (RFC 6265bis section 4.1.3.2). */
export const cookieName = (parts: SiteParts, name: string): string => (isSecure(parts) ? `__Host-${name}` : name)

/** Tells every request who makes it, by session or, for the API alone, by access token; and in which language to answer. */
export async function addVisitor(app: FastifyInstance, parts: SiteParts): Promise<void> {
  const { users, accounts, accessTokens, sessions, config } = parts
  const secure = isSecure(parts)
  await app.register(session, {
    cookieName: cookieName(parts, 'berth'),
    // The id is 192 random bits looked up by its hash: there is nothing that a signature would add.
    secret: { sign: id => id, unsign: value => ({ valid: true, renew: false, value }) },
    idGenerator: () => randomBytes(24).toString('base64url'),
    store: sessions,
    saveUninitialized: false,
    rolling: false,
    cookie: { path: '/', httpOnly: true, sameSite: 'lax', secure, maxAge: SESSION_MS }
  })
  app.decorateRequest('visitor')
  app.addHook('onRequest', async (request, reply) => {
    const chosen = (request.query as Record<string, unknown> | undefined)?.['lang']
    if (isLanguage(chosen)) {
      reply.setCookie('berth-language', chosen, { path: '/', maxAge: YEAR_S, sameSite: 'lax', httpOnly: true, secure })
    }
    const language = isLanguage(chosen) ? chosen : languageOf(request)
    const token = tokenOf(request)
    request.visitor = { language, user: undefined, isAdmin: false, scopes: undefined }
    const known = token === undefined ? { userId: request.session.userId } : accessTokens.use(token, request.ip)
    const user = known?.userId === undefined ? undefined : users.byId(known.userId)
    if (user?.state === 'enabled' && accounts.of(user)?.goneAtMs === undefined) {
      const scopes = known && 'scopes' in known ? known.scopes : undefined
      request.visitor = { language, user, isAdmin: config.web.admins.includes(user.name), scopes }
    } else if (token !== undefined) {
      throw new UserError('signed-out', 'That access token is wrong, revoked or expired.', {
        hint: 'Make a new one on the page.'
      })
    }
  })
}

function languageOf({ cookies, headers }: FastifyRequest): Language {
  const kept = cookies['berth-language']
  return isLanguage(kept) ? kept : preferredLanguage(headers['accept-language'])
}

/** Of the API alone: the pages know sessions only. */
function tokenOf({ headers, raw }: FastifyRequest): string | undefined {
  if (!raw.url?.startsWith('/api/')) return undefined
  return /^Bearer +(\S{1,200})$/i.exec(headers.authorization ?? '')?.[1]
}
