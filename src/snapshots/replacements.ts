import type { Config, NodeConfig, Template } from '../config.ts'
import type { Containers } from '../containers/containers.ts'
import { chooseTemplate } from '../containers/create.ts'
import { findContainer } from '../containers/find-container.ts'
import type { KeptContainer } from '../containers/kept-containers.ts'
import type { NodeFacts } from '../containers/node-setup.ts'
import type { Parts } from '../containers/parts.ts'
import { isNodeSilent } from '../containers/translate.ts'
import type { User, Users } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { STATUS } from '../lxd/instances.ts'
import type { InterruptedOperation, Journal, Operations, Report } from '../operations/operations.ts'
import type { ArchiveDirectory } from './archive-directory.ts'
import { makeFromArchive, makeFromTemplate } from './make-incoming.ts'
import type { SnapshotRecord } from './snapshot-records.ts'
import { discardNew, swapIn, swapSchema, type Swap } from './swap.ts'
import { temporaryName } from './temporary-names.ts'
import { tidyNode } from './tidy.ts'

interface ReplacementsParts {
  readonly config: Config
  readonly containers: Containers
  readonly operations: Operations
  readonly users: Users
  readonly archives: ArchiveDirectory
}

/** What the member typed to show that they mean it. */
export interface Confirmation {
  /** @throws UserError unless it is good; it stays so */
  check(): void
  /** Uses it up. @throws UserError as check */
  spend(): void
}

/** What is to become the container. */
interface Source {
  readonly template: string
  /** Makes it under that name, stopped, and berth's in every respect. */
  make(name: string, facts: NodeFacts, report: Report): Promise<void>
  /** It is there already under this name, and stays when the swap fails. */
  readonly existing?: string
}

const KINDS = ['rebuild', 'recover', 'undo'] as const
/** How often replaced containers whose time is over are looked for. */
const TIDY_EVERY_MS = { least: 1000, most: 60_000 }

/** Recover, rebuild and undo: a member's container is replaced by one that has been proven, and kept for a while. */
export class Replacements {
  readonly #parts: Parts
  readonly #containers: Containers
  readonly #config: Config
  readonly #operations: Operations
  readonly #users: Users
  readonly #archives: ArchiveDirectory
  readonly #reservedNames = new Map<string, ReadonlySet<string>>()
  #tidying: Promise<void> = Promise.resolve()
  /** Nodes that could not be tidied when last tried: told once. */
  readonly #untidy = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor({ config, containers, operations, users, archives }: ReplacementsParts) {
    this.#config = config
    this.#containers = containers
    this.#parts = containers.parts
    this.#operations = operations
    this.#users = users
    this.#archives = archives
    const resolver = (operation: InterruptedOperation, report: Report) => this.#resolve(operation, report)
    for (const kind of KINDS) operations.resolveWith(kind, resolver)
  }

  /**
   * A fresh container from a template in place of the present one.
   * @throws UserError `image-missing`, `not-stopped`, `busy`, `bad-user-name`, `cannot-create`, …
   */
  async rebuild(
    user: User,
    node: NodeConfig,
    template: Template,
    confirmation: Confirmation,
    report: Report
  ): Promise<void> {
    this.#parts.records.need(user, node.name)
    await this.#replace(user, node, 'rebuild', confirmation, report, {
      template: template.name,
      make: (name, facts, tell) =>
        makeFromTemplate(this.#parts, user, node, template, this.#reservedNames, { name, facts, report: tell })
    })
  }

  /**
   * A snapshot of the user's, from whatever node, in place of the present container; or where LXD has lost it.
   * @throws UserError `archive-refused`, `no-space`, `snapshots-unavailable`, `not-stopped`, `busy`, `cannot-create`, …
   */
  async recover(
    user: User,
    node: NodeConfig,
    snapshot: SnapshotRecord,
    confirmation: Confirmation,
    report: Report
  ): Promise<void> {
    this.#parts.records.need(user, node.name)
    await this.#replace(user, node, 'recover', confirmation, report, {
      template: snapshot.template,
      make: (name, facts, tell) =>
        makeFromArchive(this.#parts, this.#archives, user, node, snapshot, { name, facts, report: tell })
    })
  }

  /** The replaced container comes back, and the one that replaced it is kept in its turn. @throws UserError `nothing-kept`, … */
  async undo(user: User, node: NodeConfig, report: Report): Promise<void> {
    const kept = this.#parts.kept.newest(user, node.name)
    if (!kept) {
      throw new UserError('nothing-kept', `No replaced container of yours is kept on ${node.name}.`, {
        hint: `See what can be recovered with: ssh ${node.name}-manage recover`
      })
    }
    const source = { template: kept.template, existing: kept.instance, make: async () => {} }
    await this.#replace(user, node, 'undo', undefined, report, source)
  }

  /** @returns whether LXD has the container @throws UserError `not-stopped` unless it is stopped; `node-unavailable` */
  async needStopped(user: User, node: NodeConfig): Promise<boolean> {
    const instance = await findContainer(this.#parts.lxdFor(node), node, user)
    if (instance && instance.status_code !== STATUS.stopped) {
      throw new UserError('not-stopped', `It must be stopped on ${node.name} for this.`, {
        hint: `Stop it with: ssh ${node.name}-manage stop`
      })
    }
    return instance !== undefined
  }

  /** How long a replaced container is kept. */
  get keepMs(): number {
    return this.#config.recovery.keepReplaced
  }

  /** The replaced container that can be had back. */
  kept(user: User, node: NodeConfig): KeptContainer | undefined {
    return this.#parts.kept.newest(user, node.name)
  }

  /** The template of the user's container. @throws UserError `not-registered` */
  needTemplateOf(user: User, node: NodeConfig): string {
    return this.#parts.records.need(user, node.name).template
  }

  /** @throws UserError `unknown-template` */
  templateCalled(name: string): Template {
    return chooseTemplate(this.#config.templates, name)
  }

  /** Follows a replacement that is under way to its end. @returns false when there is none */
  follow(user: User, node: NodeConfig, report: Report): Promise<boolean> {
    return this.#operations.follow(user, node.name, KINDS, report)
  }

  /** From now on deletes replaced containers when their time is over, and what dead operations left behind. */
  keepTidy(): void {
    const { least, most } = TIDY_EVERY_MS
    const everyMs = Math.min(most, Math.max(least, this.keepMs / 2))
    const tidyAll = () => {
      for (const node of this.#config.nodes.values()) this.#tidy(node)
    }
    tidyAll()
    this.#timer = setInterval(tidyAll, everyMs).unref()
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.#tidying
  }

  async #replace(
    user: User,
    node: NodeConfig,
    kind: (typeof KINDS)[number],
    confirmation: Confirmation | undefined,
    report: Report,
    source: Source
  ): Promise<void> {
    await this.needStopped(user, node)
    const steps = async (tell: Report, journal: Journal) => {
      confirmation?.spend()
      tell('checking the node')
      const facts = await this.#parts.nodeSetup.ensure(node)
      const isThere = await this.needStopped(user, node)
      const swap = this.#planSwap(user, node, source, isThere)
      journal.enter('making', swap)
      await source.make(swap.incoming, facts, tell)
      journal.enter('swapping', swap)
      const holder = await swapIn(this.#parts, user, node, swap, facts, tell).catch(endedLater(node))
      // Nobody waits for the files of the container before the last one to be deleted.
      if (holder === 'new') return this.#tidy(node)
      journal.enter('discarding', swap)
      throw new UserError('cannot-create', `LXD on ${node.name} would not swap the two; your container is as it was.`, {
        hint: `Try again. If it stays so, tell your admin, who finds the fault with: berth node check ${node.name}`
      })
    }
    // Again and in the same breath, so that of two who come with one token the second hears that it is spent.
    confirmation?.check()
    await this.#containers.change(user, node, kind, report, steps, { join: false })
  }

  #planSwap(user: User, node: NodeConfig, { template, existing }: Source, isThere: boolean): Swap {
    const nowMs = Date.now()
    return {
      incoming: existing ?? temporaryName(user.name, 'New', nowMs),
      made: existing === undefined,
      ...(isThere && { outgoing: temporaryName(user.name, 'Old', nowMs) }),
      template,
      replacedTemplate: this.#parts.records.need(user, node.name).template,
      replacedAtMs: nowMs
    }
  }

  /** Decides by the phase and by what is there: until the swap began, the old container stays; from then on, the new one comes. */
  async #resolve({ node: nodeName, userId, phase, details }: InterruptedOperation, report: Report): Promise<string> {
    const node = this.#config.nodes.get(nodeName)
    const user = this.#users.byId(userId)
    if (!node || !user) throw new Error(`put ${nodeName} back into berth.yaml: a container there is half replaced`)
    const swap = swapSchema.parse(details)
    if (phase === 'swapping') {
      const facts = await this.#parts.nodeSetup.ensure(node)
      const holder = await swapIn(this.#parts, user, node, swap, facts, report)
      if (holder === 'new') {
        this.#tidy(node)
        return 'replaced'
      }
      if (holder === 'none') return 'LXD has lost the container'
    }
    await discardNew(this.#parts.lxdFor(node), user, swap)
    return 'the container is as it was'
  }

  #tidy(node: NodeConfig): void {
    const tidying = { parts: this.#parts, operations: this.#operations, users: this.#users }
    this.#tidying = this.#tidying
      .then(() => tidyNode(tidying, node, this.keepMs))
      .then(() => void this.#untidy.delete(node.name))
      .catch((err: unknown) => {
        if (!this.#untidy.has(node.name))
          this.#parts.log.warn({ node: node.name, err }, 'not tidied; it is tried again')
        this.#untidy.add(node.name)
      })
  }
}

/** For a swap that LXD's silence has interrupted. */
const endedLater =
  (node: NodeConfig) =>
  (error: unknown): never => {
    if (!isNodeSilent(error)) throw error
    throw new UserError('node-unavailable', `LXD on ${node.name} went silent in the middle of it.`, {
      hint: `berth ends it as soon as LXD answers again; see how far it is with: ssh ${node.name}-manage status`,
      cause: error
    })
  }
