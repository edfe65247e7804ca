import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { audited } from './audited.ts'
import { readForm } from './forms.ts'
import { statusOf } from './layout.ts'
import { tries } from './protection.ts'
import { needUser, seeOther, type SiteParts } from './site.ts'
import { cookieName } from './visitor.ts'

/** Against guessing one person's password from many addresses; others keep their turn. */
const TRIES_A_LOGIN = { max: 10, timeWindow: 5 * 60_000 }

const passwordForm = z.object({ login: z.string().max(200), password: z.string().max(1000) })

/** A way in by something that works once. */
interface OneTime {
  readonly path: string
  readonly verb: string
  peek(secret: string): boolean
  redeem(secret: string): User
}

/** Home, and the three ways in and the one out. */
export function addSignIn(app: FastifyInstance, parts: SiteParts): void {
  const { passwords, links, invites, keys, containers, config, sessions, audit, pages } = parts
  const nodes = [...config.nodes.values()]

  app.get('/', (request, reply) => {
    const { user } = request.visitor
    if (!user) return showSignIn(reply)
    const registered = containers.nodesOf(user)
    const hasKeys = keys.listFor(user).length > 0
    const hasContainer = registered.length > 0
    return reply.page('home', {
      fixedPort: user.fixedPort,
      hasKeys,
      hasContainer,
      isConfigNext: hasKeys && !hasContainer,
      nodes: nodes.map(({ name }) => ({ name, registered: registered.includes(name) })),
      lines: firstLines(user, registered[0] ?? (nodes[0] as NodeConfig).name, hasContainer)
    })
  })

  if (passwords) {
    const tryLogin = app.createRateLimit({
      ...TRIES_A_LOGIN,
      keyGenerator: request => `login ${readForm(passwordForm, request.body).login.trim().toLowerCase()}`
    })
    app.post('/sign-in', tries, async (request, reply) => {
      const { login, password } = readForm(passwordForm, request.body)
      try {
        const limit = await tryLogin(request)
        if (!limit.isAllowed && limit.isExceeded) {
          throw new UserError('too-many-tries', undefined, { hint: 'Wait a few minutes.' })
        }
        const words = ['sign-in', 'password', login.slice(0, 64)]
        const user = await letIn(request, words, async () => (await passwords.authenticate(login, password)).user)
        return await enter(request, reply, user)
      } catch (error) {
        if (!(error instanceof UserError)) throw error
        return showSignIn(reply, { login, error })
      }
    })
  }

  const ways: OneTime[] = [
    { path: '/link', verb: 'link', peek: secret => links.peek(secret), redeem: secret => links.redeem(secret) },
    { path: '/invite', verb: 'invite', peek: code => invites.peek(code), redeem: code => invites.redeemForWeb(code) }
  ]
  for (const { path, verb, peek, redeem } of ways) {
    const readSecret = ({ params }: FastifyRequest) =>
      readForm(z.object({ secret: z.string().min(1).max(100) }), params).secret

    // Programs that look at links before people do must not use them up: only the button does.
    app.get(`${path}/:secret`, tries, (request, reply) => {
      const secret = readSecret(request)
      const valid = peek(secret)
      return reply.code(valid ? 200 : 404).page('link', { valid, action: `${path}/${encodeURIComponent(secret)}` })
    })
    app.post(`${path}/:secret`, tries, async (request, reply) => {
      const user = await letIn(request, ['sign-in', verb], async () => redeem(readSecret(request)))
      return enter(request, reply, user)
    })
  }

  app.post('/sign-out', async (request, reply) => {
    const user = needUser(request)
    await audited(audit, request, { words: ['sign-out'] }, () => sessions.endAll(user.id))
    await request.session.destroy()
    reply.clearCookie(cookieName(parts, 'berth'), { path: '/' })
    return seeOther(reply, '/')
  })

  /** Who it was is known only afterwards. */
  async function letIn(request: FastifyRequest, words: string[], work: () => Promise<User>): Promise<User> {
    const [attempt] = await Promise.allSettled([work()])
    const user = attempt.status === 'fulfilled' ? attempt.value.name : undefined
    return audited(audit, request, { words, user }, () => {
      if (attempt.status === 'rejected') throw attempt.reason
      return attempt.value
    })
  }

  function showSignIn(reply: FastifyReply, { login = '', error }: { login?: string; error?: UserError } = {}) {
    if (error?.reason === 'too-many-tries') reply.header('retry-after', '300')
    return reply.code(error ? statusOf(error) : 200).page('sign-in', {
      title: 'sign-in.title',
      hasPasswords: passwords !== undefined,
      login,
      error: error && pages.explain(error, reply.request.visitor.language),
      node: nodes[0]?.name
    })
  }

  /** A session of a new name, so that one planted before knows nothing of what comes (session fixation). */
  async function enter(request: FastifyRequest, reply: FastifyReply, user: User) {
    await request.session.regenerate()
    request.session.userId = user.id
    return seeOther(reply, keys.listFor(user).length === 0 ? '/keys' : '/')
  }
}

/** What a member types most, each with its meaning at the same column. */
function firstLines({ name }: User, node: string, hasContainer: boolean) {
  const lines = [
    ...(hasContainer ? [] : [{ line: `ssh register@${node}-manage ${name}`, word: 'home.line-register' }]),
    { line: `ssh ${node}`, word: 'home.line-login' },
    { line: `ssh ${node}-manage`, word: 'home.line-start' },
    { line: `ssh ${node}-manage stop`, word: 'home.line-stop' }
  ]
  const width = Math.max(...lines.map(({ line }) => line.length))
  return lines.map(({ line, word }, index) => ({ line: line.padEnd(width + 3), word, isFirst: index === 0 }))
}
