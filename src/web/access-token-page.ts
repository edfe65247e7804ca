import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { formatTime } from '../command/units.ts'
import { SCOPES } from '../directory/access-tokens.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { audited } from './audited.ts'
import { readForm } from './forms.ts'
import { needUser, seeOther, type SiteParts } from './site.ts'

const DAY_MS = 24 * 3600 * 1000

const createForm = z.object({
  name: z.string().trim().min(1).max(60),
  scope: z.enum(SCOPES),
  days: z.coerce.number().int().min(1).max(366)
})
const revokeForm = z.object({ id: z.coerce.number().int() })

/** Personal access tokens for the API: made, shown once, revoked. */
export function addAccessTokenPage(app: FastifyInstance, { accessTokens, audit }: SiteParts): void {
  app.get('/access-tokens', (request, reply) => show(reply, needUser(request)))

  app.post('/access-tokens/create', async (request, reply) => {
    const user = needUser(request)
    const { name, scope, days } = readForm(createForm, request.body)
    if (scope === 'admin' && !request.visitor.isAdmin) {
      throw new UserError('not-allowed', 'This is for admins.', { hint: 'Ask your admin.' })
    }
    // A wider scope is of no use without the narrower ones.
    const scopes = SCOPES.slice(0, SCOPES.indexOf(scope) + 1)
    const { secret } = await audited(audit, request, { words: ['access-token', 'create', scope] }, () =>
      accessTokens.create(user, name, scopes, Date.now() + days * DAY_MS)
    )
    // In the answer itself and not behind a redirect: nothing keeps the secret.
    return show(reply, user, secret)
  })

  app.post('/access-tokens/revoke', async (request, reply) => {
    const user = needUser(request)
    const { id } = readForm(revokeForm, request.body)
    await audited(audit, request, { words: ['access-token', 'revoke', String(id)] }, () =>
      accessTokens.revoke(user, id)
    )
    return seeOther(reply, '/access-tokens')
  })

  function show(reply: FastifyReply, user: User, secret?: string) {
    const tokens = accessTokens.listFor(user).map(token => ({
      id: token.id,
      name: token.name,
      scopes: token.scopes.map(scope => ({ word: `scope.${scope}` })),
      created: formatTime(token.createdAtMs),
      expires: token.expiresAtMs === undefined ? undefined : formatTime(token.expiresAtMs),
      used: token.lastUsedAtMs === undefined ? undefined : formatTime(token.lastUsedAtMs),
      address: token.lastUsedAddress ?? ''
    }))
    return reply.page('access-tokens', {
      secret,
      tokens,
      hasTokens: tokens.length > 0,
      isAdmin: reply.request.visitor.isAdmin
    })
  }
}
