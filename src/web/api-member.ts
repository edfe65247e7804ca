import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { knownHosts } from '../command/known-hosts.ts'
import type { NodeConfig } from '../config.ts'
import { addKeyLines, keyLines } from '../directory/key-lines.ts'
import { renderSshConfig } from '../directory/ssh-config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Api, ApiParts } from './api.ts'
import { audited } from './audited.ts'
import { formOwner } from './protection.ts'
import { needNode, needUser } from './site.ts'

/** Longer work goes on; the answer says so. */
const WAIT_MS = 25_000

const user = z.object({
  name: z.string(),
  fixedPort: z.number(),
  isAdmin: z.boolean(),
  scopes: z.array(z.string()).optional().describe('of the access token'),
  csrfToken: z.string().optional().describe('for the header x-csrf-token, with a session')
})
const key = z.object({
  type: z.string(),
  bits: z.number(),
  fingerprint: z.string(),
  comment: z.string(),
  addedAtMs: z.number(),
  lastUsedAtMs: z.number().optional(),
  lastUsedAddress: z.string().optional()
})
const push = z.object({ node: z.string(), outcome: z.string(), fault: z.string().optional() })
const use = z.object({ used: z.number().optional(), limit: z.number().optional() })
const bytes = z.object({ usedBytes: z.number().optional(), limitBytes: z.number().optional() })
const operation = z.object({
  kind: z.string(),
  startedAtMs: z.number(),
  step: z.string().optional(),
  fraction: z.number().optional()
})
const status = z.object({
  node: z.string(),
  name: z.string(),
  template: z.string(),
  state: z.string(),
  startedAtMs: z.number().optional(),
  fixedPort: z.number(),
  address: z.string(),
  forwarding: z.string(),
  addresses: z.array(z.string()),
  ports: z.array(z.object({ containerPort: z.number(), nodePort: z.number() })),
  cpu: z.object({ usedMs: z.number().optional(), limit: z.number().optional() }),
  memory: bytes,
  disk: bytes,
  processes: use,
  gpus: z.array(z.string()),
  mounts: z.array(z.string()),
  faults: z.array(z.string()),
  operation: operation.optional()
})
const container = z.object({
  node: z.string(),
  registered: z.boolean(),
  status: status.optional(),
  fault: z.string().optional()
})
const snapshot = z.object({
  name: z.string(),
  node: z.string(),
  template: z.string(),
  note: z.string(),
  scheduled: z.boolean(),
  createdAtMs: z.number(),
  sizeBytes: z.number(),
  sha256: z.string()
})
const text = z.object({ text: z.string() })
const onNode = z.object({ node: z.string() })
const done = z.object({ node: z.string(), done: z.boolean(), operation: operation.optional() })

/** What a member sees and does on the pages. */
export function addMemberApi(api: Api, parts: ApiParts): void {
  const { keys, containers, snapshots, config, audit, keyChanges } = parts
  const nodes = [...config.nodes.values()]
  const route = <S extends object>(scope: 'read' | 'write', summary: string, schema: S) => ({
    schema: { summary, description: `Scope: ${scope}.`, tags: ['member'], ...schema },
    config: { scope }
  })

  api.get('/api/v1/me', route('read', 'Who you are', { response: { 200: user } }), (request, reply) => {
    const { name, fixedPort } = needUser(request)
    const { isAdmin, scopes } = request.visitor
    const csrfToken = scopes ? undefined : reply.generateCsrf({ userInfo: formOwner(request) })
    return { name, fixedPort, isAdmin, scopes: scopes && [...scopes], csrfToken }
  })

  api.get('/api/v1/keys', route('read', 'Your keys', { response: { 200: z.array(key) } }), request =>
    keys.listFor(needUser(request))
  )

  const added = z.object({ added: z.array(key), containers: z.array(push) })
  api.post(
    '/api/v1/keys',
    route('write', 'Add keys, one a line: all or none', {
      body: z.object({ keys: z.string().max(64 * 1024) }),
      response: { 200: added }
    }),
    async request => {
      const owner = needUser(request)
      const lines = keyLines(request.body.keys)
      if (lines.length === 0)
        throw new UserError('bad-key', 'It is empty.', { hint: 'Give the content of a .pub file.' })
      const fresh = await audited(audit, request, { words: ['keys', 'add'] }, () => addKeyLines(keys, owner, lines))
      const pushes = await keyChanges.follow(owner, { kind: 'added', keys: fresh })
      return { added: fresh, containers: [...pushes] }
    }
  )

  const removed = z.object({ removed: key, containers: z.array(push) })
  api.delete(
    '/api/v1/keys/:fingerprint',
    route('write', 'Remove a key; its fingerprint is written with %2F for / and %2B for +', {
      params: z.object({ fingerprint: z.string() }),
      response: { 200: removed }
    }),
    async request => {
      const owner = needUser(request)
      const { fingerprint } = request.params
      // A program has no page to add another on: the last key stays, as over SSH.
      const gone = await audited(audit, request, { words: ['keys', 'remove', fingerprint] }, () =>
        keys.remove(owner, fingerprint)
      )
      const pushes = await keyChanges.follow(owner, { kind: 'removed', keys: [gone] })
      return { removed: gone, containers: [...pushes] }
    }
  )

  const entries = route('read', 'The entries for ~/.ssh/config', { response: { 200: text } })
  api.get('/api/v1/ssh-config', entries, request => ({ text: renderSshConfig(needUser(request), nodes) }))

  const hosts = route('read', 'The lines for ~/.ssh/berth_known_hosts', { response: { 200: text } })
  api.get('/api/v1/known-hosts', hosts, request => ({
    text: knownHosts(needUser(request), nodes, parts)
  }))

  const all = route('read', 'Your container on each node', { response: { 200: z.array(container) } })
  api.get('/api/v1/containers', all, request => {
    const owner = needUser(request)
    return Promise.all(nodes.map(node => readContainer(owner, node)))
  })

  const archives = route('read', 'Your snapshots, of all nodes', { response: { 200: z.array(snapshot) } })
  api.get('/api/v1/snapshots', archives, request => snapshots.listFor(needUser(request)))

  const one = route('read', 'Your container on one node', { params: onNode, response: { 200: container } })
  api.get('/api/v1/containers/:node', one, request =>
    readContainer(needUser(request), needNode(config, request.params.node))
  )

  const act = (verb: string, summary: string, action: (owner: User, node: NodeConfig) => Promise<unknown>): void => {
    api.post(
      `/api/v1/containers/:node/${verb}`,
      route('write', `${summary}; waits up to 25 s for its end`, { params: onNode, response: { 200: done } }),
      async request => {
        const owner = needUser(request)
        const node = needNode(config, request.params.node)
        const work = audited(audit, request, { words: [verb], node: node.name }, async () => action(owner, node))
        const ended = await Promise.race([work.then(() => true), sleep(WAIT_MS, false, { ref: false })])
        work.catch(() => {})
        return { node: node.name, done: ended, operation: containers.running(owner, node) }
      }
    )
  }
  act('register', 'Create your container', (owner, node) => containers.register(owner, node, undefined))
  act('start', 'Start it', (owner, node) => containers.start(owner, node))
  act('stop', 'Stop it', (owner, node) => containers.stop(owner, node))
  act('restart', 'Restart it', (owner, node) => containers.restart(owner, node))

  async function readContainer(owner: User, node: NodeConfig): Promise<z.output<typeof container>> {
    try {
      const found = await containers.status(owner, node)
      const { addresses, ports, gpus, mounts, faults } = found
      return {
        node: node.name,
        registered: true,
        status: {
          ...found,
          addresses: [...addresses],
          ports: [...ports],
          gpus: [...gpus],
          mounts: [...mounts],
          faults: [...faults]
        }
      }
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      const registered = error.reason !== 'not-registered'
      return { node: node.name, registered, ...(registered && { fault: error.message }) }
    }
  }
}
