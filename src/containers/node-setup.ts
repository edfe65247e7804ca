import { lookup } from 'node:dns/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import type { NodeConfig } from '../config.ts'
import { UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import { listOf } from '../lxd/answer.ts'
import { apiPath } from '../lxd/api-path.ts'
import type { CallOptions, LxdClient } from '../lxd/client.ts'
import type { Collection } from '../lxd/collection.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { networkAcls } from '../lxd/network-acls.ts'
import { createNetwork, networks } from '../lxd/networks.ts'
import { profiles } from '../lxd/profiles.ts'
import { projects } from '../lxd/projects.ts'
import { getResources, type GpuCard } from '../lxd/resources.ts'
import { getServer, type ServerInfo } from '../lxd/server.ts'
import { missingGpus, planProfile, PROFILE } from './profile.ts'
import { ANSWER_TIMEOUT_MS, blame, tellAdmin } from './translate.ts'
import { Turns } from './turns.ts'
import { planWalls } from './walls.ts'

/** A node as berth found it after putting its part right. */
export interface NodeFacts {
  readonly server: ServerInfo
  /** The bridge's own address and network, such as 10.20.30.1/24. */
  readonly bridge: string
  readonly cards: readonly GpuCard[]
}

interface Hardware {
  readonly readAtMs: number
  readonly cards: readonly GpuCard[]
  readonly addresses: readonly string[]
}

/** GPUs and the host's own addresses are asked for anew after this time; the rest at every check. */
const HARDWARE_AGE_MS = 60_000

/**
 * What LXD refuses may be right a moment later: it looks through all projects for those who use a bridge, and stumbles over one that is
 * deleted just then; and it still makes what a berth asked for that was killed meanwhile.
 */
const LOOK_AGAIN_MS = [100, 500, 1500]
const isRefusal = (error: unknown): boolean => error instanceof LxdError && error.fault === 'refused'

/** Project, bridge, its ACL and the profile: made by berth, and put back when somebody changed them. */
export class NodeSetup {
  readonly #nodes: readonly NodeConfig[]
  readonly #lxdFor: (node: NodeConfig) => LxdClient
  readonly #log: Log
  readonly #bridgeTurns = new Turns()
  readonly #hardware = new Map<string, Hardware>()
  /** Nodes that share a bridge with others and did not answer: until then nobody waits for them. */
  readonly #silentUntilMs = new Map<string, number>()
  readonly #underWay = new Map<string, Promise<NodeFacts>>()

  constructor(nodes: Iterable<NodeConfig>, lxdFor: (node: NodeConfig) => LxdClient, log: Log) {
    this.#nodes = [...nodes]
    this.#lxdFor = lxdFor
    this.#log = log
  }

  /**
   * Compares the node with berth.yaml and makes or repairs what differs: some ten reads of a few milliseconds when nothing does.
   * Those who ask at the same time share one check.
   * @throws UserError `node-unavailable` within 5 s; `cannot-create` when LXD refuses a repair
   */
  ensure(node: NodeConfig): Promise<NodeFacts> {
    const current = this.#underWay.get(node.name)
    if (current) return current
    const check = this.#ensureAtLast(node)
      .catch(blame(node, 'cannot-create', tellAdmin(node)))
      .finally(() => this.#underWay.delete(node.name))
    this.#underWay.set(node.name, check)
    return check
  }

  async #ensureAtLast(node: NodeConfig): Promise<NodeFacts> {
    for (const delayMs of LOOK_AGAIN_MS) {
      try {
        return await this.#ensure(node)
      } catch (error) {
        if (!isRefusal(error) && !isRefusal((error as Error).cause)) throw error
        this.#log.info({ node: node.name, err: error }, 'looking again')
      }
      await sleep(delayMs)
    }
    return this.#ensure(node)
  }

  async #ensure(node: NodeConfig): Promise<NodeFacts> {
    const lxd = this.#lxdFor(node)
    // Bridges and their ACLs belong to the default project, whatever project uses them (features.networks).
    const shared = lxd.inProject('default')
    const options = { timeoutMs: ANSWER_TIMEOUT_MS }
    // Members of a cluster have one bridge and one ACL between them: looked at and changed one after the other, lest they fight.
    const bridgeOf = () =>
      this.#bridgeTurns.take(node.target ? node.network : `${node.network} ${node.lxd}`, () =>
        this.#ensureNetwork(node, shared)
      )
    const [server, hardware, project, bridge, profile] = await Promise.all([
      getServer(lxd, options),
      this.#readHardware(node),
      projects.find(lxd, node.project, options),
      bridgeOf(),
      profiles.find(lxd, PROFILE, options)
    ])
    // Only made: LXD refuses to change the features of a project in use.
    if (server.clustered && !node.target) throw memberUnnamed(node)
    if (!project) await projects.create(lxd, planProject(node))
    await this.#put(node, lxd, profiles, PROFILE, profile, planProfile(node, hardware.cards))
    return { server, bridge, cards: hardware.cards }
  }

  /** What was wrong with the node when it was last looked at and does not keep containers from running. */
  faults(node: NodeConfig): string[] {
    const cards = this.#hardware.get(node.name)?.cards
    if (!cards) return []
    return missingGpus(node, cards).map(gpu =>
      gpu === 'all' ? `${node.name} has no GPU.` : `The GPU ${gpu} is not in ${node.name}.`
    )
  }

  /** The ACL first, and closed until the bridge's network is known: the bridge never stands without its walls. */
  async #ensureNetwork(node: NodeConfig, lxd: LxdClient): Promise<string> {
    const name = aclName(node)
    const description = 'Made by berth'
    const options = { timeoutMs: ANSWER_TIMEOUT_MS }
    const [found, foundAcl] = await Promise.all([
      networks.find(lxd, node.network, options),
      networkAcls.find(lxd, name, options)
    ])
    const config = planBridge(name)
    let network = found?.status === 'Pending' || found?.status === 'Errored' ? undefined : found
    if (!network) {
      if (!foundAcl) await networkAcls.create(lxd, { name, description, egress: [], ingress: [] })
      this.#log.info({ node: node.name, network: node.network }, 'making the bridge')
      await createNetwork(lxd, { name: node.network, type: 'bridge', description, config }).catch((cause: unknown) => {
        if (!(cause instanceof LxdError) || (cause.fault !== 'refused' && cause.fault !== 'failed')) throw cause
        throw new UserError('cannot-create', `${node.name} cannot make the bridge ${node.network}: ${cause.message}`, {
          hint: `If it finds no free network, an admin gives it one: lxc network create ${node.network} ipv4.address=10.64.0.1/20 ipv4.nat=true ipv6.address=none dns.mode=none`,
          cause
        })
      })
      network = await networks.find(lxd, node.network)
    }
    const bridge = network?.config['ipv4.address'] ?? 'none'
    if (!network || !bridge.includes('/')) {
      throw new UserError('cannot-create', `The bridge ${node.network} on ${node.name} has no IPv4 network.`, {
        hint: `Give it one: lxc network set ${node.network} ipv4.address auto`
      })
    }
    const sharing = this.#nodes.filter(other => mayShareBridge(node, other))
    const addressesOf = async (other: NodeConfig) => [
      ...(other === node ? await this.#readHardware(node) : await this.#readNeighbour(other)).addresses,
      ...(await resolve(other.address)),
      other.listenAddress
    ]
    const hosts = await Promise.all(sharing.map(addressesOf)).catch((error: unknown) => {
      // A member of the cluster that does not answer must neither stop the others nor fall out of the walls.
      if (!found || !foundAcl) throw error
      this.#log.warn({ node: node.name, err: error }, 'walls left as they are')
    })
    if (hosts) {
      const rules = planWalls({
        bridge,
        hostAddresses: hosts.flat(),
        manageAddresses: (await Promise.all(sharing.map(other => resolve(other.manageAddress)))).flat(),
        managePorts: sharing.map(other => other.managePort),
        deny: sharing.flatMap(other => other.deny)
      })
      const acl = found ? foundAcl : await networkAcls.find(lxd, name)
      await this.#put(node, lxd, networkAcls, name, acl, { description, ...rules })
    }
    const wanted = { description: network.description, config: { ...network.config, ...config } }
    await this.#put(node, lxd, networks, node.network, network, wanted)
    return bridge
  }

  /** Makes the thing, or puts it right where it differs from what it should be. */
  async #put<Put extends object, Thing extends object>(
    node: NodeConfig,
    lxd: LxdClient,
    collection: Collection<Thing, Put>,
    name: string,
    found: Found<Thing>,
    wanted: Put
  ): Promise<void> {
    if (!found) {
      this.#log.info({ node: node.name, name }, 'making what is missing on the node')
      await collection.create(lxd, { name, ...wanted })
      return
    }
    const isRight = ([key, value]: [string, unknown]) => isDeepStrictEqual(found[key as keyof Thing], value)
    const differing = Object.entries(wanted).filter(entry => !isRight(entry))
    if (differing.length === 0) return
    this.#log.warn(
      { node: node.name, name, differing: differing.map(([key]) => key) },
      'putting right what was changed'
    )
    await collection.update(lxd, name, wanted, found.etag).catch((error: unknown) => {
      // Somebody changed it since it was read: the next check sees their change.
      if (!(error instanceof LxdError && error.status === 412)) throw error
    })
  }

  async #readNeighbour(node: NodeConfig): Promise<Hardware> {
    if (Date.now() < (this.#silentUntilMs.get(node.name) ?? 0)) throw new Error(`${node.name} did not answer lately`)
    return this.#readHardware(node, { timeoutMs: ANSWER_TIMEOUT_MS }).catch((error: unknown) => {
      this.#silentUntilMs.set(node.name, Date.now() + HARDWARE_AGE_MS)
      throw error
    })
  }

  async #readHardware(node: NodeConfig, options?: CallOptions): Promise<Hardware> {
    const lxd = this.#lxdFor(node).inProject('default')
    const known = this.#hardware.get(node.name)
    if (known && Date.now() - known.readAtMs < HARDWARE_AGE_MS) return known
    const [{ gpus }, addresses] = await Promise.all([getResources(lxd, options), readHostAddresses(lxd)])
    const hardware = { readAtMs: Date.now(), cards: gpus, addresses }
    this.#hardware.set(node.name, hardware)
    return hardware
  }
}

type Found<Thing> = (Thing & { etag: string }) | undefined

/** Members of a cluster have one bridge, whichever of them is asked. Of two clusters each has its own, with more closed than need be. */
const mayShareBridge = (one: NodeConfig, other: NodeConfig): boolean =>
  one.network === other.network && (one.lxd === other.lxd || (one.target !== undefined && other.target !== undefined))

const memberUnnamed = (node: NodeConfig) =>
  new UserError('cannot-create', `LXD on ${node.name} is in a cluster, and which member is meant is not said.`, {
    hint: tellAdmin(node)
  })

const aclName = (node: NodeConfig): string => `berth-${node.network}`

const planBridge = (acl: string) => ({
  'dns.mode': 'none',
  'ipv4.nat': 'true',
  'ipv6.address': 'none',
  'security.acls': acl,
  'security.acls.default.egress.action': 'reject',
  'security.acls.default.ingress.action': 'reject'
})

const planProject = (node: NodeConfig) => ({
  name: node.project,
  description: 'Made by berth',
  config: { 'features.images': 'false', 'features.profiles': 'true', 'features.storage.volumes': 'true' }
})

const networkUrls = listOf(z.string())
const networkState = z.looseObject({ addresses: listOf(z.looseObject({ address: z.string() })) })

/**
 * Every address of every interface of the node (GET /1.0/networks, /1.0/networks/NAME/state), LXD's or not. In a cluster the names
 * are those of the member that was asked, whatever the target (LXD 5.0.2): of another one only what has the same name and what
 * LXD itself listens on. `doctor` warns of such a way.
 */
export async function readHostAddresses(lxd: LxdClient): Promise<string[]> {
  const options = { timeoutMs: ANSWER_TIMEOUT_MS, query: { target: lxd.target } }
  // Not recursively: Incus 6.0 without Open vSwitch leaves the host's own interfaces out of that list.
  const urls = await lxd.get(apiPath`/1.0/networks`, networkUrls, options)
  const names = urls.map(url => decodeURIComponent(new URL(url, 'http://lxd').pathname.split('/').at(-1) ?? ''))
  const states = await Promise.all(
    names.map(name => lxd.find(apiPath`/1.0/networks/${name}/state`, networkState, options))
  )
  const listening = lxd.target === undefined ? [] : (await getServer(lxd, options)).addresses
  const own = states.flatMap(state => state?.addresses.map(({ address }) => address) ?? [])
  return [...new Set([...own, ...listening.map(withoutPort)])].sort()
}

const withoutPort = (address: string): string => address.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')

async function resolve(host: string): Promise<string[]> {
  const found = await lookup(host, { all: true }).catch(() => [])
  return found.map(({ address }) => address).sort()
}
