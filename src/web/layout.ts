import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { DomainAccounts } from '../directory/domain-accounts.ts'
import { toUserError, UserError, type Reason } from '../errors.ts'
import { LANGUAGE_TAGS } from './language.ts'
import { formOwner } from './protection.ts'
import type { SiteParts } from './site.ts'
import type { Values } from './template.ts'

const MEMBER_PAGES = [
  { href: '/keys', word: 'nav.keys' },
  { href: '/ssh-config', word: 'nav.config' },
  { href: '/containers', word: 'nav.containers' },
  { href: '/guide', word: 'nav.guide' }
]
const ADMIN_PAGES = [
  { href: '/admin/users', word: 'nav.users' },
  { href: '/admin/nodes', word: 'nav.nodes' },
  { href: '/admin/audit', word: 'nav.audit' }
]

const DAY_S = 24 * 3600

/** How pages and failures look: `reply.page`, the error pages, and the files they use. */
export function addLayout(app: FastifyInstance, { pages, accounts, log }: SiteParts): void {
  app.decorateReply('page', function page(this: FastifyReply, name: string, values: Values = {}) {
    const { language } = this.request.visitor
    const html = pages.render('layout', language, {
      ...commonValues(this, pages.assetsVersion, accounts),
      page: name,
      title: `${name}.title`,
      ...values
    })
    return this.type('text/html; charset=utf-8').send(html)
  })

  for (const [name, { type, content }] of pages.assets) {
    app.get(`/assets/${name}`, (_request, reply) =>
      reply
        .type(type)
        .header('cache-control', `public, max-age=${365 * DAY_S}, immutable`)
        .send(content)
    )
  }
  app.get('/favicon.ico', (_request, reply) => reply.redirect('/assets/berth.svg', 301))
  app.get('/robots.txt', (_request, reply) => reply.type('text/plain').send('User-agent: *\nDisallow: /\n'))

  app.setNotFoundHandler((request, reply) => fail(request, reply, new UserError('no-such-page')))
  app.setErrorHandler((error: FastifyError, request, reply) => fail(request, reply, error))

  function fail(request: FastifyRequest, reply: FastifyReply, thrown: Error): FastifyReply {
    const error = understand(request, thrown)
    if (error.reason === 'internal') log.error({ session: `web-${request.id}`, err: error.cause }, 'internal error')
    const status = statusOf(error)
    request.visitor ??= { language: 'en', user: undefined, isAdmin: false, scopes: undefined }
    if (error.reason === 'too-many-tries') reply.header('retry-after', '60')
    if (request.url.startsWith('/api/v1')) {
      return reply.code(status).send({ error: error.reason, message: error.message, hint: error.hint })
    }
    if (error.reason === 'signed-out' && request.method === 'GET') return reply.redirect('/', 303)
    try {
      return reply.code(status).page('error', { said: pages.explain(error, request.visitor.language), status })
    } catch (err) {
      log.error({ session: `web-${request.id}`, err }, 'not even the error page')
      return reply.code(500).type('text/plain').send(`berth made a mistake: web-${request.id}\n`)
    }
  }
}

function commonValues(reply: FastifyReply, assetsVersion: string, accounts: DomainAccounts): Values {
  const { visitor, url } = reply.request
  const path = url.split('?')[0] as string
  const link = (entry: { href: string; word: string }) => ({ ...entry, current: path.startsWith(entry.href) })
  return {
    languageTag: LANGUAGE_TAGS[visitor.language],
    // A form that was refused is no page to go back to; any other is named by its query alone, for `//host` would be another host.
    here: reply.request.method === 'GET' ? '' : '/',
    isEnglish: visitor.language === 'en',
    isChinese: visitor.language === 'zh',
    user: visitor.user?.name,
    displayName: (visitor.user && accounts.of(visitor.user)?.displayName) ?? '',
    links: visitor.user ? MEMBER_PAGES.map(link) : [],
    hasAdmin: visitor.isAdmin,
    adminLinks: visitor.isAdmin ? ADMIN_PAGES.map(link) : [],
    csrf: reply.generateCsrf({ userInfo: formOwner(reply.request) }),
    assets: assetsVersion
  }
}

/** What Fastify and its plugins refuse, in words of ours; their own would tell in English what no page of ours does. */
function understand(request: FastifyRequest, thrown: Error): UserError {
  if (thrown instanceof UserError) return thrown
  const { code, statusCode } = thrown as FastifyError
  if (code === 'FST_CSRF_INVALID_TOKEN' || code === 'FST_CSRF_MISSING_SECRET') {
    return new UserError('form-expired', undefined, { hint: 'Go back, load the page again, and send it once more.' })
  }
  if (statusCode === 413) return new UserError('too-large', undefined, { hint: 'Go back and try again.' })
  // The parser of files calls what it cannot read by no code of its own.
  const isUnreadable = request.isMultipart() && !request.body
  if (isUnreadable || (statusCode !== undefined && statusCode >= 400 && statusCode < 500)) {
    return new UserError('bad-request', undefined, { hint: 'Go back and try again.', cause: thrown })
  }
  return toUserError(thrown, `web-${request.id}`)
}

const STATUS: Partial<Record<Reason, number>> = {
  'no-such-page': 404,
  'unknown-key': 404,
  'unknown-user': 404,
  'unknown-node': 404,
  'not-registered': 404,
  'signed-out': 401,
  'sign-in-failed': 401,
  'too-many-tries': 429,
  'too-large': 413,
  busy: 409,
  exists: 409,
  'key-taken': 409,
  'last-key': 409
}

/** HTTP's word (RFC 9110 section 15) for an exit code, where the reason has no better one of its own. */
export function statusOf({ reason, exitCode }: UserError): number {
  return STATUS[reason] ?? { 64: 400, 65: 422, 69: 503, 73: 507, 75: 503, 77: 403 }[exitCode] ?? 500
}
