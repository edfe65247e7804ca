import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { enrolLine } from '../command/lines.ts'
import { formatTime } from '../command/units.ts'
import type { NodeConfig } from '../config.ts'
import { inviteUrl, linkUrl, webAddress } from '../directory/sign-in-links.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { audited } from './audited.ts'
import { ContainerWork } from './container-work.ts'
import { readForm } from './forms.ts'
import { statusOf } from './layout.ts'
import { needAdmin, seeOther, type SiteParts } from './site.ts'
import type { Values } from './template.ts'

const PAGE_SIZE = 50

const listQuery = z.object({
  q: z.string().trim().max(100).catch(''),
  page: z.coerce.number().int().min(1).max(100_000).catch(1)
})
const inviteForm = z.object({ name: z.string().trim().max(100) })

/** All members: find, invite, make a sign-in link, disable, enable, remove. */
export function addAdminUsers(app: FastifyInstance, parts: SiteParts): void {
  const { users, members, links, accounts, containers, config, audit, pages, log } = parts
  const work = new ContainerWork(log)
  const node = [...config.nodes.values()][0] as NodeConfig
  const address = webAddress(config.web) as string

  app.get('/admin/users', (request, reply) => {
    needAdmin(request)
    return showUsers(reply)
  })

  app.post('/admin/users/invite', async (request, reply) => {
    needAdmin(request)
    const { name } = readForm(inviteForm, request.body)
    try {
      const { code, expiresAtMs, created, ended, user } = await audited(
        audit,
        request,
        { words: ['invite', name] },
        () => members.invite(name)
      )
      const invited = {
        name,
        isNew: created,
        hasEnded: ended,
        isDisabled: user.state === 'disabled',
        fixedPort: user.fixedPort,
        link: inviteUrl(address, code),
        line: enrolLine(node, name, code),
        until: formatTime(expiresAtMs)
      }
      return await showUsers(reply, { invited })
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      reply.code(statusOf(error))
      return showUsers(reply, { error: pages.explain(error, request.visitor.language), name })
    }
  })

  const act = (verb: string, action: (user: User, request: FastifyRequest) => Promise<unknown>): void => {
    app.post(`/admin/users/:name/${verb}`, async (request, reply) => {
      const admin = needAdmin(request)
      const user = users.need(readForm(z.object({ name: z.string() }), request.params).name)
      if (user.id === admin.id) {
        throw new UserError('not-allowed', 'That is yourself.', { hint: 'Ask another admin.' })
      }
      await work.begin(String(user.id), () =>
        audited(audit, request, { words: ['user', verb, user.name] }, () => action(user, request))
      )
      return seeOther(reply, `/admin/users?q=${encodeURIComponent(user.name)}`)
    })
  }
  act('disable', user => members.disable(user))
  act('enable', user => members.enable(user))
  act('remove', async (user, { body }) => {
    const { confirm } = readForm(z.object({ confirm: z.string().max(100) }), body)
    if (confirm !== user.name) throw new UserError('bad-request', 'That is another name; nothing was deleted.')
    await members.remove(user)
  })

  app.post('/admin/users/:name/link', async (request, reply) => {
    needAdmin(request)
    const user = users.need(readForm(z.object({ name: z.string() }), request.params).name)
    const { secret, expiresAtMs } = await audited(audit, request, { words: ['user', 'link', user.name] }, () =>
      links.create(user)
    )
    return showUsers(reply, {
      linked: { name: user.name, link: linkUrl(address, secret), until: formatTime(expiresAtMs) }
    })
  })

  function showUsers(reply: FastifyReply, more: Values = {}) {
    const { request } = reply
    const { q, page } = readForm(listQuery, request.query)
    const { users: found, total } = users.search(q, { offset: (page - 1) * PAGE_SIZE, limit: PAGE_SIZE })
    const lastPage = Math.max(1, Math.ceil(total / PAGE_SIZE))
    const pageLink = (to: number) => `/admin/users?q=${encodeURIComponent(q)}&page=${to}`
    return reply.page('users', {
      q,
      total,
      lastPage,
      hasPages: lastPage > 1,
      previous: page > 1 ? pageLink(page - 1) : undefined,
      next: page < lastPage ? pageLink(page + 1) : undefined,
      name: '',
      users: found.map(user => {
        const failure = work.failure(String(user.id))
        const account = accounts.of(user)
        return {
          ...user,
          displayName: account?.displayName ?? '',
          email: account?.email ?? '',
          isDisabled: user.state === 'disabled',
          isSelf: user.id === request.visitor.user?.id,
          since: formatTime(user.createdAtMs).slice(0, 10),
          nodes: containers.nodesOf(user).join(', '),
          failure: failure && pages.explain(failure, request.visitor.language)
        }
      }),
      number: page,
      ...more
    })
  }
}
