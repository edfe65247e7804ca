import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { knownHosts } from '../command/known-hosts.ts'
import { renderSshConfig } from '../directory/ssh-config.ts'
import type { User } from '../directory/users.ts'
import { readForm } from './forms.ts'
import { needUser, type SiteParts } from './site.ts'

const query = z.object({ for: z.enum(['unix', 'windows']).catch('unix') })

/** `~/.ssh/config` and `known_hosts` of the member: to copy, to download, and how to use them with each client. */
export function addConfigPage(app: FastifyInstance, parts: SiteParts): void {
  const { config } = parts
  const nodes = [...config.nodes.values()]
  const render = (user: User, _client: 'unix' | 'windows') => renderSshConfig(user, nodes).trimEnd()

  app.get('/ssh-config', (request, reply) => {
    const user = needUser(request)
    const client = readForm(query, request.query).for
    return reply.page('ssh-config', {
      sshConfig: render(user, client),
      knownHosts: knownHosts(user, nodes, parts),
      client,
      isUnix: client === 'unix',
      isWindows: client === 'windows',
      fixedPort: user.fixedPort,
      node: nodes[0]?.name,
      nodes: nodes.map(({ name, address, manageAddress, managePort }) => ({ name, address, manageAddress, managePort }))
    })
  })

  app.get('/ssh-config/config', (request, reply) =>
    sendFile(reply, 'config', render(needUser(request), readForm(query, request.query).for))
  )
  app.get('/ssh-config/known_hosts', (request, reply) =>
    sendFile(reply, 'known_hosts', knownHosts(needUser(request), nodes, parts))
  )
}

const sendFile = (reply: FastifyReply, name: string, text: string): FastifyReply =>
  reply
    .type('text/plain; charset=utf-8')
    .header('content-disposition', `attachment; filename="${name}"`)
    .send(`${text}\n`)
