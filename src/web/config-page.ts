import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { knownHosts } from '../command/known-hosts.ts'
import { renderSshConfig } from '../directory/ssh-config.ts'
import type { User } from '../directory/users.ts'
import { readForm } from './forms.ts'
import { needUser, type SiteParts } from './site.ts'

const query = z.object({
  for: z.enum(['unix', 'windows']).catch('unix'),
  wake: z.enum(['yes', 'no']).optional().catch(undefined)
})
type Choice = z.output<typeof query>

/** `~/.ssh/config` and `known_hosts` of the member: to copy, to download, and how to use them with each client. */
export function addConfigPage(app: FastifyInstance, parts: SiteParts): void {
  const { config } = parts
  const nodes = [...config.nodes.values()]
  const wakes = (choice: Choice) => (choice.wake ?? (choice.for === 'windows' ? 'no' : 'yes')) === 'yes'
  const render = (user: User, choice: Choice) =>
    renderSshConfig(user, nodes, { windows: choice.for === 'windows', wake: wakes(choice) })

  app.get('/ssh-config', (request, reply) => {
    const user = needUser(request)
    const choice = readForm(query, request.query)
    const wake = wakes(choice)
    return reply.page('ssh-config', {
      sshConfig: render(user, choice).trim(),
      knownHosts: knownHosts(user, nodes, parts),
      client: choice.for,
      isUnix: choice.for === 'unix',
      isWindows: choice.for === 'windows',
      wake: wake ? 'yes' : 'no',
      isWaking: wake,
      fixedPort: user.fixedPort,
      node: nodes[0]?.name,
      nodes: nodes.map(({ name, address, manageAddress, managePort }) => ({ name, address, manageAddress, managePort }))
    })
  })

  app.get('/ssh-config/config', (request, reply) =>
    sendFile(reply, 'berth_config', render(needUser(request), readForm(query, request.query)))
  )
  app.get('/ssh-config/known_hosts', (request, reply) =>
    sendFile(reply, 'berth_known_hosts', `${knownHosts(needUser(request), nodes, parts)}\n`)
  )
}

const sendFile = (reply: FastifyReply, name: string, text: string): FastifyReply =>
  reply.type('text/plain; charset=utf-8').header('content-disposition', `attachment; filename="${name}"`).send(text)
