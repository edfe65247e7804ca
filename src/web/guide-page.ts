import type { FastifyInstance } from 'fastify'
import { plainLoginLine, plainManageLine } from '../command/lines.ts'
import type { NodeConfig } from '../config.ts'
import { needUser, type SiteParts } from './site.ts'

/** How to use it all, with the member's own names and ports. */
export function addGuidePage(app: FastifyInstance, { config }: SiteParts): void {
  const nodes = [...config.nodes.values()]

  app.get('/guide', (request, reply) => {
    const user = needUser(request)
    const node = nodes[0] as NodeConfig
    return reply.page('guide', {
      node: node.name,
      address: node.address,
      name: user.name,
      fixedPort: user.fixedPort,
      plainLogin: plainLoginLine(node, user),
      plainManage: plainManageLine(node, user.name, '').trim(),
      mounts: [...new Set(nodes.flatMap(({ mounts }) => mounts.map(({ path }) => path)))].map(path => ({ path })),
      hasMounts: nodes.some(({ mounts }) => mounts.length > 0)
    })
  })
}
