import { setTimeout as sleep } from 'node:timers/promises'
import type { Config, NodeConfig } from '../config.ts'
import type { Database } from '../db/open.ts'
import type { Keys } from '../directory/keys.ts'
import type { User, Users } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { LxdClient } from '../lxd/client.ts'
import { STATUS } from '../lxd/instances.ts'
import type { Journal, Operations, Report, RunningOperation, RunOptions } from '../operations/operations.ts'
import { openFixedPort, removeContainer } from './access.ts'
import type { ContainerStatus } from './container-status.ts'
import { chooseTemplate, ensureInstance } from './create.ts'
import { findContainer } from './find-container.ts'
import { Health } from './health.ts'
import { HostKeys, type GenerateHostKey, type HostKey } from './host-keys.ts'
import { KeptContainers } from './kept-containers.ts'
import { pushKeys, type KeyPush } from './key-pushes.ts'
import { NodeSetup, type NodeFacts } from './node-setup.ts'
import type { Parts, ProbeHostKey } from './parts.ts'
import { PortForwards, type PortForward } from './port-forwards.ts'
import { closePort, openPort } from './ports.ts'
import { ContainerRecords, type ShutOutOwed } from './records.ts'
import { resumeNode } from './resume.ts'
import { openShell, type ShellRequest } from './shell.ts'
import { keepShuttingOut, shutOut } from './shut-out.ts'
import { startContainer } from './start.ts'
import { readStatus } from './status.ts'
import { stopContainer, type StopOutcome } from './stop.ts'
import { Turns } from './turns.ts'

export type { KeyPush } from './key-pushes.ts'

export interface ContainersParts {
  readonly config: Config
  readonly database: Database
  readonly keys: Keys
  readonly users: Pick<Users, 'byId'>
  readonly operations: Operations
  readonly probeHostKey: ProbeHostKey
  readonly generateHostKey: GenerateHostKey
  readonly log: Log
  lxdFor(node: NodeConfig): LxdClient
}

/** A crowd asking for the same container costs its node one reading a second. */
const READING_AGE_MS = 1000
const DEFAULT_STOP_TIMEOUT_MS = 30_000
/** For a login that wakes a container: a running `start` ends before that. */
const WAKE_PATIENCE_MS = 120_000
/** For what an admin does to all of a member's containers: no `restart` that its owner can draw out lasts longer. */
const ADMIN_PATIENCE_MS = 20 * 60_000
const BUSY_PAUSE_MS = 250
const PUT_AWAY_ATTEMPTS = 5
const PUT_AWAY_PAUSE_MS = 1000
/** Operations at whose end the container runs. */
const COMES_UP: ReadonlySet<string> = new Set(['register', 'start', 'restart'])
const silent: Report = () => {}

/** What became of a member's container on one node; `fault` when nothing did. */
export interface NodeOutcome {
  readonly node: string
  readonly outcome: string
  readonly fault?: string
}

/** Every member's container on every node. What changes one is an operation: one at a time, whoever asks. */
export class Containers {
  /** What the steps of a container's life work with; for those that replace or copy it. */
  readonly parts: Parts
  readonly #operations: Operations
  readonly #health = new Health()
  readonly #readings = new Map<string, Promise<ContainerStatus>>()
  readonly #closing = new AbortController()

  constructor({ database, operations, generateHostKey, ...shared }: ContainersParts) {
    const { config, lxdFor, log } = shared
    this.#operations = operations
    this.parts = {
      ...shared,
      records: new ContainerRecords(database),
      forwards: new PortForwards(database, config.forwardPorts),
      hostKeys: new HostKeys(database, generateHostKey),
      kept: new KeptContainers(database),
      nodeSetup: new NodeSetup(config.nodes.values(), lxdFor, log),
      keyTurns: new Turns(),
      keyRetries: new Map(),
      ailing: new Set(),
      delivered: new Map()
    }
  }

  /** Makes the member's container, or finishes a half-made one, and starts it. */
  register(
    user: User,
    node: NodeConfig,
    template: string | undefined,
    report: Report = silent
  ): Promise<{ created: boolean }> {
    return this.change(user, node, 'register', report, async tell => {
      const known = this.parts.records.find(user, node.name)
      const chosen = chooseTemplate(this.parts.config.templates, template ?? known?.template)
      tell('checking the node')
      const facts = await this.parts.nodeSetup.ensure(node)
      const created = await ensureInstance(this.parts, user, node, chosen, facts, tell)
      await startContainer(this.parts, user, node, facts, tell)
      return { created }
    })
  }

  start(user: User, node: NodeConfig, report: Report = silent): Promise<{ already: boolean }> {
    return this.change(user, node, 'start', report, async tell => ({ already: await this.#start(user, node, tell) }))
  }

  /**
   * Starts the container for somebody who is about to log in, unless its owner stopped it; `onStart` is called if it has to be
   * waited for.
   * @throws UserError `not-running` after a stop; `not-registered`, `busy`, and what `start` throws
   */
  async wake(user: User, node: NodeConfig, onStart: () => void): Promise<void> {
    const record = this.parts.records.need(user, node.name)
    const running = this.#operations.running(user, node.name)
    if (!running && record.provisionedAtMs !== undefined && (await this.#isUp(user, node))) return
    const comesUp = running !== undefined && COMES_UP.has(running.kind)
    if (!record.shouldRun && !comesUp) {
      throw new UserError('not-running', 'It was stopped on purpose, so a login does not start it.', {
        hint: `Start it with: ssh ${node.name}-manage`
      })
    }
    onStart()
    const start = () =>
      this.#changeWhenFree(user, node, 'start', silent, WAKE_PATIENCE_MS, tell => this.#start(user, node, tell))
    if (!comesUp && running) await this.start(user, node)
    else await this.#untilPutAway(start)
  }

  stop(
    user: User,
    node: NodeConfig,
    { timeoutMs = DEFAULT_STOP_TIMEOUT_MS }: { timeoutMs?: number } = {},
    report: Report = silent
  ): Promise<StopOutcome> {
    return this.change(user, node, 'stop', report, tell => stopContainer(this.parts, user, node, timeoutMs, tell))
  }

  restart(
    user: User,
    node: NodeConfig,
    { timeoutMs = DEFAULT_STOP_TIMEOUT_MS }: { timeoutMs?: number } = {},
    report: Report = silent
  ): Promise<void> {
    return this.change(user, node, 'restart', report, async tell => {
      await stopContainer(this.parts, user, node, timeoutMs, tell)
      await this.#start(user, node, tell)
    })
  }

  /** Those who ask while it is being read, or within a second after, share the reading, but never one begun before a change. */
  status(user: User, node: NodeConfig): Promise<ContainerStatus> {
    this.#operations.refuseDuring('swapping', user, node.name)
    const name = `${user.id}@${node.name}`
    const shared = this.#readings.get(name)
    if (shared) return shared
    const running = this.#operations.running(user, node.name)
    const reading = readStatus(this.parts, this.#health, user, node, running)
    this.#readings.set(name, reading)
    const forget = () => {
      if (this.#readings.get(name) === reading) this.#readings.delete(name)
    }
    reading.then(() => setTimeout(forget, running ? 0 : READING_AGE_MS).unref(), forget)
    return reading
  }

  /** What is being done to the member's container now, without asking anybody. */
  running(user: User, node: NodeConfig): RunningOperation | undefined {
    return this.#operations.running(user, node.name)
  }

  /** The member's list of keys as it is now, to every node at once; each takes at most 5 s and is told of when it has ended. */
  async pushKeys(user: User, onPush: (push: KeyPush) => void = () => {}): Promise<KeyPush[]> {
    const pushed = await Promise.all(
      this.#nodes().map(async node => {
        const push = await pushKeys(this.parts, user, node)
        onPush(push)
        return push
      })
    )
    for (const node of this.#nodes()) this.#forget(node, user)
    return pushed
  }

  openShell(user: User, node: NodeConfig, request: ShellRequest): Promise<number> {
    this.#operations.refuseDuring('swapping', user, node.name)
    this.#forget(node, user)
    return openShell(this.parts, user, node, request)
  }

  /** The extra ports of the member's container on a node. @throws UserError `not-registered` */
  ports(user: User, node: NodeConfig): PortForward[] {
    this.parts.records.need(user, node.name)
    return this.parts.forwards.list(user, node.name)
  }

  openPort(user: User, node: NodeConfig, containerPort: number): Promise<PortForward & { already: boolean }> {
    return this.change(user, node, `port ${containerPort}`, silent, () =>
      openPort(this.parts, user, node, containerPort)
    )
  }

  closePort(user: User, node: NodeConfig, containerPort: number): Promise<PortForward> {
    return this.change(user, node, `port close ${containerPort}`, silent, () =>
      closePort(this.parts, user, node, containerPort)
    )
  }

  /** The public host keys of the member's container, made when there are none yet: known_hosts may be printed before `register`. */
  hostKeys(user: User, node: NodeConfig): Pick<HostKey, 'type' | 'publicKey'>[] {
    return this.parts.hostKeys.of(user, node.name).map(({ type, publicKey }) => ({ type, publicKey }))
  }

  /** The names of the nodes where the member has a container. */
  nodesOf(user: User): string[] {
    return this.parts.records.listFor(user).map(({ node }) => node)
  }

  /** How many members have a container on a node. */
  countOn(node: NodeConfig): number {
    return this.parts.records.listOn(node.name).length
  }

  ensureNode(node: NodeConfig): Promise<NodeFacts> {
    return this.parts.nodeSetup.ensure(node)
  }

  /**
   * Closes the fixed port of a disabled member's containers, empties their lists of keys, and stops them unless they are to go on;
   * where that fails now, as soon as it can be done.
   */
  async disable(
    user: User,
    { keepRunning = false }: { keepRunning?: boolean } = {},
    report: Report = silent
  ): Promise<NodeOutcome[]> {
    const disabled: User = { ...user, state: 'disabled' }
    this.oweShutOut(disabled, keepRunning ? 'close' : 'stop')
    return this.#everywhere(disabled, 'disable', report, (node, tell) => shutOut(this.parts, disabled, node, tell))
  }

  /** Notes that a disabled member is to be shut out of all containers, whatever else is done to them. */
  oweShutOut(user: User, owed: ShutOutOwed | undefined): void {
    const { records } = this.parts
    for (const { node, shutOutOwed } of records.listFor(user)) {
      // The lab's directory, which closes alone, does not take back what an admin has asked for.
      if (owed === 'close' && shutOutOwed === 'stop') continue
      records.setShutOutOwed(user, node, owed)
    }
  }

  /** From now on `disable` reaches also the nodes that were away. */
  keepShuttingOut(): void {
    for (const node of this.#nodes()) {
      const carryOut = (user: User) =>
        this.change(user, node, 'disable', silent, tell => shutOut(this.parts, user, node, tell))
      void keepShuttingOut(this.parts, node, carryOut, this.#closing.signal)
    }
  }

  close(): void {
    this.#closing.abort()
  }

  /** Gives keys and fixed port back to what was left running; the member starts the rest. */
  async enable(user: User, report: Report = silent): Promise<NodeOutcome[]> {
    const enabled: User = { ...user, state: 'enabled' }
    this.oweShutOut(enabled, undefined)
    return this.#everywhere(enabled, 'enable', report, async node => {
      // While this waited for its turn.
      if (this.parts.users.byId(user.id)?.state === 'disabled') return 'disabled again'
      await openFixedPort(this.parts, enabled, node, await this.parts.nodeSetup.ensure(node))
      const { outcome } = await pushKeys(this.parts, enabled, node)
      return outcome === 'at-next-start' ? 'stopped' : 'open again'
    })
  }

  /** Deletes the member's containers for good. @throws UserError when one could not be; calling again goes on with the rest */
  async remove(user: User, report: Report = silent): Promise<NodeOutcome[]> {
    const remove = async (node: NodeConfig, tell: Report) => {
      await removeContainer(this.parts, user, node, tell)
      return 'deleted'
    }
    const outcomes = await this.#everywhere(user, 'remove', report, remove, { alsoArchive: true })
    const failed = outcomes.filter(({ fault }) => fault !== undefined)
    if (failed.length === 0) return outcomes
    throw new UserError('stop-failed', failed.map(({ node, fault }) => `${node}: ${fault}`).join('; '), {
      hint: `When the fault is mended, type again: berth user remove ${user.name}`
    })
  }

  /**
   * At start of `serve`: puts every node right, brings keys that did not arrive, and starts what a reboot of the node ended; on a node
   * that is away, as soon as it answers.
   */
  async resume(): Promise<void> {
    const resume = (node: NodeConfig) =>
      resumeNode(this.parts, node, user => this.start(user, node), this.#closing.signal)
    await Promise.all(this.#nodes().map(resume))
  }

  #nodes(): NodeConfig[] {
    return [...this.parts.config.nodes.values()]
  }

  /** LXD calls a container stopped that has just gone down by itself, and refuses to start it while it still tidies up. */
  async #untilPutAway(start: () => Promise<unknown>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await start()
        return
      } catch (error) {
        if (!(error instanceof UserError) || error.reason !== 'start-failed' || attempt === PUT_AWAY_ATTEMPTS)
          throw error
        await sleep(PUT_AWAY_PAUSE_MS)
      }
    }
  }

  async #isUp(user: User, node: NodeConfig): Promise<boolean> {
    const instance = await findContainer(this.parts.lxdFor(node), node, user)
    return instance?.status_code === STATUS.running
  }

  async #start(user: User, node: NodeConfig, report: Report): Promise<boolean> {
    this.parts.records.need(user, node.name)
    report('checking the node')
    const facts = await this.parts.nodeSetup.ensure(node)
    return startContainer(this.parts, user, node, facts, report)
  }

  /** What was seen of the container may no longer be so. */
  #forget(node: NodeConfig, user: User): void {
    this.#health.forget(node, user)
    this.#readings.delete(`${user.id}@${node.name}`)
  }

  /** One change of one container at a time. @throws UserError `busy` at once, before anything else is done */
  async change<T>(
    user: User,
    node: NodeConfig,
    kind: string,
    report: Report,
    action: (report: Report, journal: Journal) => Promise<T>,
    options?: RunOptions
  ): Promise<T> {
    try {
      const running = this.#operations.run(user, node.name, kind, report, action, options)
      this.#forget(node, user)
      return await running
    } finally {
      this.#forget(node, user)
    }
  }

  /** The same change of all containers of a member, each after what runs there now; one that fails does not keep the others. */
  #everywhere(
    user: User,
    kind: string,
    report: Report,
    action: (node: NodeConfig, report: Report) => Promise<string>,
    options?: RunOptions
  ): Promise<NodeOutcome[]> {
    const nodes = this.#nodes().filter(node => this.parts.records.find(user, node.name))
    return Promise.all(
      nodes.map(async node => {
        try {
          const tell: Report = (step, fraction) => report(`${node.name}: ${step}`, fraction)
          const outcome = await this.#changeWhenFree(
            user,
            node,
            kind,
            tell,
            ADMIN_PATIENCE_MS,
            told => action(node, told),
            options
          )
          return { node: node.name, outcome }
        } catch (error) {
          if (!(error instanceof UserError)) throw error
          return { node: node.name, outcome: 'not changed', fault: error.message }
        }
      })
    )
  }

  async #changeWhenFree<T>(
    user: User,
    node: NodeConfig,
    kind: string,
    report: Report,
    patienceMs: number,
    action: (report: Report) => Promise<T>,
    options?: RunOptions
  ): Promise<T> {
    const deadlineMs = performance.now() + patienceMs
    for (;;) {
      try {
        return await this.change(user, node, kind, report, action, options)
      } catch (error) {
        if (!(error instanceof UserError && error.reason === 'busy') || performance.now() > deadlineMs) throw error
        report(`waiting, ${error.message}`)
        await sleep(BUSY_PAUSE_MS)
      }
    }
  }
}
