import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { loginLine, manageLine, plainLoginLine, registerLine } from '../command/lines.ts'
import { formatBytes, formatDuration, formatTime } from '../command/units.ts'
import type { NodeConfig } from '../config.ts'
import type { ContainerStatus } from '../containers/container-status.ts'
import type { User } from '../directory/users.ts'
import type { UserError } from '../errors.ts'
import type { SnapshotRecord } from '../snapshots/snapshot-records.ts'
import { audited } from './audited.ts'
import { ContainerWork } from './container-work.ts'
import { readForm } from './forms.ts'
import { Readings } from './readings.ts'
import { needNode, needUser, seeOther, type SiteParts } from './site.ts'

const STATES = ['running', 'stopped', 'frozen', 'error', 'missing']
const portForm = z.object({ port: z.coerce.number().int().min(1).max(65535) })
const registerForm = z.object({ template: z.string().max(100).optional() })

/** The member's container on each node, with what may be done to it. */
export function addContainersPage(app: FastifyInstance, parts: SiteParts): void {
  const { containers, snapshots, config, audit, pages, log } = parts
  const readings = new Readings<ContainerStatus>()
  const work = new ContainerWork(log)
  const nodes = [...config.nodes.values()]

  app.get('/containers', async (request, reply) => {
    const user = needUser(request)
    const registered = new Set(containers.nodesOf(user))
    const cards = await Promise.all(nodes.map(node => describe(request, user, node, registered.has(node.name))))
    if (cards.some(({ isMoving }) => isMoving)) reply.header('refresh', '2')
    return reply.page('containers', { cards, ...describeSnapshots(snapshots.listFor(user), nodes[0]) })
  })

  const act = (
    verb: string,
    action: (user: User, node: NodeConfig, request: FastifyRequest) => Promise<unknown>,
    wordsOf = (_request: FastifyRequest): string[] => [verb]
  ): void => {
    app.post(`/containers/:node/${verb}`, async (request, reply) => {
      const user = needUser(request)
      const node = needNode(config, readForm(z.object({ node: z.string() }), request.params).node)
      const name = `${user.id}@${node.name}`
      await work.begin(name, () => {
        return audited(audit, request, { words: wordsOf(request), node: node.name }, async () => {
          readings.forget(name)
          await action(user, node, request).finally(() => readings.forget(name))
        })
      })
      return seeOther(reply, `/containers#${node.name}`)
    })
  }
  act('start', (user, node) => containers.start(user, node))
  act('stop', (user, node) => containers.stop(user, node))
  act('restart', (user, node) => containers.restart(user, node))
  act('register', (user, node, { body }) => containers.register(user, node, readForm(registerForm, body).template))

  const readPort = ({ body }: FastifyRequest): number => readForm(portForm, body).port
  act(
    'open-port',
    (user, node, request) => containers.openPort(user, node, readPort(request)),
    request => ['port', String(readPort(request))]
  )
  act(
    'close-port',
    (user, node, request) => containers.closePort(user, node, readPort(request)),
    request => ['port', 'close', String(readPort(request))]
  )

  async function describe(request: FastifyRequest, user: User, node: NodeConfig, isRegistered: boolean) {
    const { language } = request.visitor
    const name = `${user.id}@${node.name}`
    const failure = work.failure(name)
    const explain = (error: UserError | undefined) => error && pages.explain(error, language)
    const common = {
      node: node.name,
      isRegistered,
      failure: explain(failure),
      login: loginLine(node),
      plainLogin: plainLoginLine(node, user),
      manage: manageLine(node),
      registerLine: registerLine(node, user)
    }
    const reading = isRegistered ? await readings.take(name, () => containers.status(user, node)) : undefined
    const operation = containers.running(user, node)
    const status = reading?.value
    return {
      ...common,
      isAsking: isRegistered && !reading,
      isMoving: (isRegistered && !reading) || operation !== undefined,
      operation: operation && {
        // `port 8888` is about one port.
        word: `operation.${operation.kind.split(' ')[0]}`,
        step: operation.step === undefined ? '' : pages.say(operation.step, language)
      },
      isOffered: !isRegistered && !operation,
      templates: config.templates.map(template => ({ ...template, isOnly: config.templates.length === 1 })),
      hasChoice: config.templates.length > 1,
      fault: explain(reading?.fault),
      status: status ? describeStatus(status, sentence => pages.say(sentence, language)) : undefined,
      canStart: !operation && status !== undefined && status.state !== 'running',
      canStop: !operation && status?.state === 'running',
      canOpen: !operation && status !== undefined
    }
  }
}

function describeStatus(status: ContainerStatus, say: (sentence: string) => string) {
  const isRunning = status.state === 'running'
  const upMs = status.startedAtMs === undefined ? undefined : Date.now() - status.startedAtMs
  return {
    isRunning,
    state: STATES.includes(status.state) ? `state.${status.state}` : 'state.other',
    template: status.template,
    uptime: upMs === undefined ? undefined : formatDuration(upMs),
    cpu: describeCpu(status, upMs),
    memory: isRunning ? describeUse(status.memory.usedBytes, status.memory.limitBytes) : undefined,
    disk: describeUse(status.disk.usedBytes, status.disk.limitBytes),
    processes: isRunning ? status.processes.used : undefined,
    gpus: status.gpus.map(gpu => ({ gpu })),
    mounts: status.mounts.map(path => ({ path })),
    hasMounts: status.mounts.length > 0,
    addresses: status.addresses.join(', '),
    hasPorts: status.ports.length > 0,
    ports: status.ports.map(({ nodePort, containerPort }) => ({ at: `${status.address}:${nodePort}`, containerPort })),
    faults: status.faults.map(fault => ({ fault: say(fault) }))
  }
}

/** All of the member's archives, wherever they were taken: each can be recovered on every node. */
function describeSnapshots(list: readonly SnapshotRecord[], anyNode: NodeConfig | undefined) {
  return {
    hasSnapshots: list.length > 0,
    snapshots: list.map(({ name, node, sizeBytes, createdAtMs, template, note }) => ({
      name,
      node,
      size: formatBytes(sizeBytes),
      taken: formatTime(createdAtMs),
      template,
      note
    })),
    snapshotLine: anyNode && manageLine(anyNode, 'snapshot'),
    recoverLine: anyNode && manageLine(anyNode, 'recover')
  }
}

/** Cores used on average since the start: what one reading can tell. */
function describeCpu({ cpu }: ContainerStatus, upMs: number | undefined) {
  if (cpu.usedMs === undefined || !upMs) return undefined
  const cores = cpu.usedMs / upMs
  return { cores: cores.toFixed(cores < 10 ? 2 : 0), limit: cpu.limit, hasLimit: cpu.limit !== undefined }
}

function describeUse(usedBytes: number | undefined, limitBytes: number | undefined) {
  if (usedBytes === undefined) return undefined
  const used = formatBytes(usedBytes)
  if (!limitBytes) return { used, limit: undefined }
  const percent = Math.min(100, Math.round((usedBytes / limitBytes) * 100))
  return { used, limit: { of: formatBytes(limitBytes), percent } }
}
