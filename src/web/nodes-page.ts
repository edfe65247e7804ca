import type { FastifyInstance } from 'fastify'
import { formatBytes } from '../command/units.ts'
import type { NodeConfig } from '../config.ts'
import { ANSWER_TIMEOUT_MS, blame, tellAdmin } from '../containers/translate.ts'
import { listInstances, STATUS } from '../lxd/instances.ts'
import { getResources } from '../lxd/resources.ts'
import { getServer } from '../lxd/server.ts'
import { Readings } from './readings.ts'
import { needAdmin, type SiteParts } from './site.ts'

const MOST_NAMES = 100

/** Every node: does it answer, what is it, how loaded, which containers run. */
export function addNodesPage(app: FastifyInstance, parts: SiteParts): void {
  const { config, containers, pages } = parts
  const readings = new Readings<Awaited<ReturnType<typeof readNode>>>()

  app.get('/admin/nodes', async (request, reply) => {
    needAdmin(request)
    const nodes = await Promise.all(
      [...config.nodes.values()].map(async node => {
        const reading = await readings.take(node.name, () => readNode(parts, node))
        return {
          node: node.name,
          address: node.address,
          manage: `${node.manageAddress}:${node.managePort}`,
          registered: containers.countOn(node),
          isAsking: !reading,
          fault: reading?.fault && pages.explain(reading.fault, request.visitor.language),
          facts: reading?.value
        }
      })
    )
    if (nodes.some(({ isAsking }) => isAsking)) reply.header('refresh', '2')
    return reply.page('nodes', { nodes })
  })
}

async function readNode({ lxdFor }: SiteParts, node: NodeConfig) {
  const lxd = lxdFor(node)
  const options = { timeoutMs: ANSWER_TIMEOUT_MS }
  const [server, resources, instances] = await Promise.all([
    getServer(lxd, options),
    getResources(lxd, options),
    listInstances(lxd, options)
  ]).catch(blame(node, 'node-unavailable', tellAdmin(node)))
  const running = instances.filter(instance => instance.status_code === STATUS.running)
  return {
    server: `${server.kind === 'incus' ? 'Incus' : 'LXD'} ${server.version}`,
    kernel: server.kernelVersion,
    cpus: resources.cpus,
    load: resources.loadAverage?.toFixed(2),
    memory: {
      used: formatBytes(resources.usedMemoryBytes),
      of: formatBytes(resources.memoryBytes),
      percent: Math.round((resources.usedMemoryBytes / Math.max(1, resources.memoryBytes)) * 100)
    },
    gpus: countSame(resources.gpus.map(card => card.product || card.vendor || card.pciAddress)),
    running: running.length,
    names: running.slice(0, MOST_NAMES).map(({ name }) => ({ name })),
    more: Math.max(0, running.length - MOST_NAMES)
  }
}

/** `8 × NVIDIA A100`, not eight times the same. */
function countSame(names: readonly string[]) {
  const counts = new Map<string, number>()
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1)
  return [...counts].map(([name, count]) => ({ gpu: count === 1 ? name : `${count} × ${name}` }))
}
