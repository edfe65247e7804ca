import type { Config, NodeConfig, Template } from '../config.ts'
import type { Containers } from '../containers/containers.ts'
import { chooseTemplate, hasTakenName, needImage } from '../containers/create.ts'
import { findContainer } from '../containers/find-container.ts'
import type { NodeFacts } from '../containers/node-setup.ts'
import type { Parts } from '../containers/parts.ts'
import { PROFILE } from '../containers/profile.ts'
import { nameTaken } from '../containers/create.ts'
import { blame, isNodeSilent } from '../containers/translate.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { createInstance, STATUS } from '../lxd/instances.ts'
import type { InterruptedOperation, Operations, Report } from '../operations/operations.ts'
import { findForeign, makeOurs } from './incoming.ts'
import { discard, swapIn, swapSchema, type Swap } from './swap.ts'
import { temporaryName } from './temporary-names.ts'

interface ReplacementsParts {
  readonly config: Config
  readonly containers: Containers
  readonly operations: Operations
  userOf(id: number): User | undefined
}

/** What replaces a container, made under a temporary name. */
interface Source {
  /** Makes it, stopped, and berth's in every respect. */
  make(name: string, facts: NodeFacts, report: Report): Promise<void>
  readonly template: string
  /** It was there already and stays where it is when the swap fails. */
  readonly existing?: string
}

/** Recover, rebuild and undo: a member's container is replaced by one that has been proven, and kept for a while. */
export class Replacements {
  readonly #parts: Parts
  readonly #containers: Containers
  readonly #config: Config

  constructor({ config, containers, operations, userOf }: ReplacementsParts) {
    this.#config = config
    this.#containers = containers
    this.#parts = containers.parts
    const resolver = (operation: InterruptedOperation, report: Report) =>
      this.#resolve(operation, userOf(operation.userId), report)
    for (const kind of ['rebuild', 'recover', 'undo']) operations.resolveWith(kind, resolver)
  }

  /**
   * A fresh container from a template in place of the present one.
   * @param confirm called once nothing else runs: spends the token, or throws
   * @throws UserError `unknown-template`, `image-missing`, `not-stopped`, `busy`, `bad-user-name`, `cannot-create`, …
   */
  async rebuild(user: User, node: NodeConfig, template: Template, confirm: () => void, report: Report): Promise<void> {
    this.#parts.records.need(user, node.name)
    await this.needStopped(user, node)
    await this.#replace(user, node, 'rebuild', confirm, report, {
      template: template.name,
      make: (name, facts, tell) => this.#makeFromTemplate(user, node, template, name, facts, tell)
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
    await this.needStopped(user, node)
    await this.#replace(user, node, 'undo', () => {}, report, {
      template: kept.template,
      existing: kept.instance,
      make: async () => {}
    })
  }

  /** @throws UserError `not-stopped` unless the container is stopped, or LXD has none; `node-unavailable` */
  async needStopped(user: User, node: NodeConfig): Promise<boolean> {
    const instance = await findContainer(this.#parts.lxdFor(node), node, user)
    if (instance && instance.status_code !== STATUS.stopped) {
      throw new UserError('not-stopped', `It must be stopped on ${node.name} for this.`, {
        hint: `Stop it with: ssh ${node.name}-manage stop`
      })
    }
    return instance !== undefined
  }

  /** @throws UserError `unknown-template` */
  templateCalled(name: string): Template {
    return chooseTemplate(this.#config.templates, name)
  }

  #replace(
    user: User,
    node: NodeConfig,
    kind: string,
    confirm: () => void,
    report: Report,
    source: Source
  ): Promise<void> {
    const steps = async (tell: Report, journal: { enter(phase: string, details?: object): void }) => {
      confirm()
      tell('checking the node')
      const facts = await this.#parts.nodeSetup.ensure(node)
      const isThere = await this.needStopped(user, node)
      const nowMs = Date.now()
      const swap: Swap = {
        incoming: source.existing ?? temporaryName(user.name, 'New', nowMs),
        made: source.existing === undefined,
        ...(isThere && { outgoing: temporaryName(user.name, 'Old', nowMs) }),
        template: source.template,
        replacedTemplate: this.#parts.records.find(user, node.name)?.template ?? source.template,
        replacedAtMs: nowMs
      }
      journal.enter('making', swap)
      await source.make(swap.incoming, facts, tell)
      journal.enter('swapping', swap)
      const holder = await swapIn(this.#parts, user, node, swap, facts, tell).catch(notThereNow(node))
      if (holder === 'new') return
      journal.enter('discarding', swap)
      throw new UserError('cannot-create', `LXD on ${node.name} would not swap the two; your container is as it was.`, {
        hint: `Try again. If it stays so, tell your admin, who finds the fault with: berth node check ${node.name}`
      })
    }
    return this.#containers.change(user, node, kind, report, steps, { join: false })
  }

  async #makeFromTemplate(
    user: User,
    node: NodeConfig,
    template: Template,
    name: string,
    facts: NodeFacts,
    report: Report
  ): Promise<void> {
    const lxd = this.#parts.lxdFor(node)
    const { fingerprint } = await needImage(lxd, node, template)
    const refused = blame(node, 'cannot-create', unchanged(node))
    report('creating')
    const description = `berth: ${user.name}`
    const made = {
      name,
      description,
      source: { type: 'image', fingerprint } as const,
      profiles: [PROFILE],
      devices: {}
    }
    await createInstance(lxd, made, { onProgress: report }).catch(refused)
    if (await hasTakenName(lxd, user, name).catch(refused)) throw nameTaken(user)
    await makeOurs(lxd, node, name, description).catch(refused)
    const foreign = await findForeign(lxd, node, facts, name).catch(refused)
    if (foreign !== undefined)
      throw new UserError('cannot-create', `The new container is not as it should be: ${foreign}.`, {
        hint: unchanged(node)
      })
  }

  /** Decides by the phase and by what is there: until the swap began, the old container stays; from then on, the new one comes. */
  async #resolve({ node: nodeName, phase, details }: InterruptedOperation, user: User | undefined, report: Report) {
    const node = this.#config.nodes.get(nodeName)
    if (!node || !user) throw new Error(`put ${nodeName} back into berth.yaml: a container there is half replaced`)
    const swap = swapSchema.parse(details)
    if (phase === 'swapping') {
      const facts = await this.#parts.nodeSetup.ensure(node)
      const holder = await swapIn(this.#parts, user, node, swap, facts, report)
      if (holder === 'new') return 'replaced'
      if (holder === 'none') return 'LXD has lost the container'
    }
    if (swap.made) await discard(this.#parts.lxdFor(node), swap.incoming)
    return 'the container is as it was'
  }
}

const unchanged = (node: NodeConfig): string =>
  `Your container is as it was. Try again, or tell your admin, who finds the fault with: berth node check ${node.name}`

/** For a swap that LXD's silence has interrupted: it is ended as soon as LXD answers again. */
const notThereNow =
  (node: NodeConfig) =>
  (error: unknown): never => {
    if (!isNodeSilent(error)) throw error
    throw new UserError('node-unavailable', `LXD on ${node.name} went silent in the middle of it.`, {
      hint: `berth ends it as soon as LXD answers again; see how far it is with: ssh ${node.name}-manage status`,
      cause: error
    })
  }
