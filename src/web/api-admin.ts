import { z } from 'zod'
import { inviteUrl, linkUrl, webAddress } from '../directory/sign-in-links.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Api } from './api.ts'
import { audited } from './audited.ts'
import { needUser, type SiteParts } from './site.ts'

const user = z.object({
  name: z.string(),
  fixedPort: z.number(),
  state: z.enum(['enabled', 'disabled']),
  createdAtMs: z.number(),
  keys: z.number(),
  nodes: z.array(z.string())
})
const outcome = z.object({ node: z.string(), outcome: z.string(), fault: z.string().optional() })
const named = z.object({ name: z.string() })
const entry = z.object({
  id: z.number(),
  atMs: z.number(),
  session: z.string(),
  login: z.string(),
  user: z.string().optional(),
  fingerprint: z.string().optional(),
  address: z.string(),
  node: z.string(),
  words: z.string(),
  reason: z.string().optional(),
  exitCode: z.number().optional(),
  durationMs: z.number().optional()
})

/** What an admin sees and does on the pages. */
export function addAdminApi(api: Api, { users, members, links, containers, config, audit }: SiteParts): void {
  const address = webAddress(config.web) as string
  const route = <S extends object>(summary: string, schema: S) => ({
    schema: { summary, description: 'Scope: admin.', tags: ['admin'], ...schema },
    config: { scope: 'admin' as const }
  })

  const listQuery = z.object({
    q: z.string().max(100).default(''),
    offset: z.coerce.number().int().min(0).default(0),
    limit: z.coerce.number().int().min(1).max(1000).default(100)
  })
  const listed = z.object({ total: z.number(), users: z.array(user) })
  api.get(
    '/api/v1/users',
    route('All users', { querystring: listQuery, response: { 200: listed } }),
    ({ query: { q, offset, limit } }) => {
      const found = users.search(q, { offset, limit })
      return { total: found.total, users: found.users.map(one => ({ ...one, nodes: containers.nodesOf(one) })) }
    }
  )

  const invited = z.object({
    created: z.boolean(),
    code: z.string(),
    link: z.string(),
    expiresAtMs: z.number(),
    ended: z.boolean()
  })
  api.post(
    '/api/v1/users/:name/invite',
    route('Make an invite, and the user where there is none', { params: named, response: { 200: invited } }),
    async request => {
      const { name } = request.params
      const { created, code, expiresAtMs, ended } = await audited(audit, request, { words: ['invite', name] }, () =>
        members.invite(name)
      )
      return { created, code, link: inviteUrl(address, code), expiresAtMs, ended }
    }
  )

  const linked = z.object({ link: z.string(), expiresAtMs: z.number() })
  api.post(
    '/api/v1/users/:name/link',
    route('Make a link that signs a user in, once', { params: named, response: { 200: linked } }),
    async request => {
      const one = users.need(request.params.name)
      const { secret, expiresAtMs } = await audited(audit, request, { words: ['user', 'link', one.name] }, () =>
        links.create(one)
      )
      return { link: linkUrl(address, secret), expiresAtMs }
    }
  )

  const changed = { params: named, response: { 200: z.array(outcome) } }
  const act = (verb: string, summary: string, action: (one: User) => Promise<z.output<typeof outcome>[]>): void => {
    api.post(`/api/v1/users/:name/${verb}`, route(summary, changed), request => {
      const one = users.need(request.params.name)
      if (one.id === needUser(request).id) {
        throw new UserError('not-allowed', 'That is yourself.', { hint: 'Ask another admin.' })
      }
      return audited(audit, request, { words: ['user', verb, one.name] }, () => action(one))
    })
  }
  act('disable', 'Shut a user out everywhere, and stop the containers', one => members.disable(one))
  act('enable', 'Let a disabled user in again', one => members.enable(one))
  act('remove', 'Delete a user with all containers and snapshots, for good', async one => {
    const { containers } = await members.remove(one)
    return containers
  })

  const auditQuery = z.object({
    user: z.string().max(100).optional(),
    sinceMs: z.coerce.number().optional(),
    limit: z.coerce.number().int().min(1).max(1000).default(100)
  })
  api.get(
    '/api/v1/audit',
    route('What was done, oldest first', { querystring: auditQuery, response: { 200: z.array(entry) } }),
    ({ query }) => audit.list(query)
  )
}
