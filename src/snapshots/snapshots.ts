import type { Config, NodeConfig } from '../config.ts'
import type { Containers } from '../containers/containers.ts'
import { findContainer } from '../containers/find-container.ts'
import type { Parts } from '../containers/parts.ts'
import { ANSWER_TIMEOUT_MS, blame, tellAdmin } from '../containers/translate.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { getImage } from '../lxd/images.ts'
import { getInstanceState, STATUS } from '../lxd/instances.ts'
import { getServer, type ServerInfo } from '../lxd/server.ts'
import type { InterruptedOperation, Journal, Operations, Report } from '../operations/operations.ts'
import type { ArchiveDirectory } from './archive-directory.ts'
import { estimate, type Estimate } from './estimate.ts'
import { readUsage, refuseAboveLimits, type Usage } from './limits.ts'
import { selectExpired } from './retention.ts'
import type { SnapshotRecord, SnapshotRecords } from './snapshot-records.ts'
import { readNodeSpace, refuseWithoutSpace, type NodeSpace } from './space.ts'
import { discard } from './swap.ts'
import { takeSnapshot, takingSchema } from './take.ts'

interface SnapshotsParts {
  readonly config: Config
  readonly containers: Containers
  readonly operations: Operations
  readonly records: SnapshotRecords
  readonly directory: ArchiveDirectory
  userOf(id: number): User | undefined
}

/** What a snapshot would be, before anything is done. */
export interface SnapshotPlan extends Estimate {
  readonly template: string
  readonly running: boolean
  /** On the node's disk; undefined where the pool does not count. */
  readonly usedBytes: number | undefined
  /** Of the image whose blocks it shares on the disk, compressed; 0 where it shares none. */
  readonly imageBytes: number
  readonly usage: Usage
  readonly space: NodeSpace
  readonly freeBytes: number
  readonly directory: string
  readonly server: ServerInfo
}

export interface TakeOptions {
  readonly note: string
  /** Not asked for by the member: taken of a running container too, and thinned out by the schedule's own rules. */
  readonly scheduled: boolean
  /** Called at once when nothing else has the container, before anything is done: spends the token, or throws. */
  confirm(): void
  /** The copy is made: the container may be used again. */
  onCopied(): void
}

const SNAPSHOT = 'snapshot'
const TIDY_EVERY_MS = 30_000

/** Archives of members' containers: taking, listing and removing them. */
export class Snapshots {
  readonly records: SnapshotRecords
  readonly directory: ArchiveDirectory
  readonly #config: Config
  readonly #containers: Containers
  readonly #operations: Operations
  readonly #parts: Parts
  #mayBeUntidy = false
  #timer: NodeJS.Timeout | undefined

  constructor({ config, containers, operations, records, directory, userOf }: SnapshotsParts) {
    this.#config = config
    this.#containers = containers
    this.#operations = operations
    this.#parts = containers.parts
    this.records = records
    this.directory = directory
    operations.resolveWith(SNAPSHOT, operation => this.#resolve(operation, userOf(operation.userId)))
  }

  /**
   * What a snapshot would be and whether it could be made; looks only.
   * @throws UserError `not-registered`, `snapshots-unavailable`, `limit-reached`, `no-space`, `node-unavailable`
   */
  async plan(user: User, node: NodeConfig, { scheduled = false } = {}): Promise<SnapshotPlan> {
    const { template } = this.#parts.records.need(user, node.name)
    const { snapshots } = this.#config
    const records = this.records.listFor(user)
    const usage = readUsage(snapshots, records, this.#underwayElsewhere(user, node))
    refuseAboveLimits(usage, records, 0, { node: node.name, scheduled })
    const lxd = this.#parts.lxdFor(node)
    const silent = blame(node, 'node-unavailable', tellAdmin(node))
    const instance = await findContainer(lxd, node, user)
    if (!instance) {
      throw new UserError('not-registered', `The container of ${user.name} is gone from ${node.name}.`, {
        hint: `See what can be recovered with: ssh ${node.name}-manage recover`
      })
    }
    const [freeBytes, state, server] = await Promise.all([
      this.directory.freeBytes(),
      getInstanceState(lxd, user.name, { timeoutMs: ANSWER_TIMEOUT_MS }).catch(silent),
      getServer(lxd).catch(silent)
    ])
    const space = await readNodeSpace(lxd, node, server).catch(silent)
    const usedBytes = state.disk['root']?.usage || undefined
    const fingerprint = instance.config['volatile.base_image']
    const image = space.copiesOnWrite && fingerprint ? await getImage(lxd, fingerprint).catch(silent) : undefined
    const imageBytes = image?.size ?? 0
    const estimated = estimate(usedBytes, imageBytes, snapshots.compression, records)
    const { archiveBytes } = estimated
    refuseAboveLimits(usage, records, archiveBytes ?? 0, { node: node.name, scheduled })
    const directory = `${this.directory.path}/${user.name}`
    refuseWithoutSpace(node, space, { archiveBytes, usedBytes, freeBytes, directory })
    const running = state.status_code !== STATUS.stopped
    return { template, running, usedBytes, imageBytes, usage, space, freeBytes, directory, server, ...estimated }
  }

  /**
   * Archives the member's container. Others may have the container as soon as it is copied.
   * @throws UserError as `plan`; `not-stopped`, `busy`, `snapshot-failed`; whatever `confirm` throws
   */
  async take(user: User, node: NodeConfig, options: TakeOptions, report: Report): Promise<SnapshotRecord> {
    const steps = async (tell: Report, journal: Journal) => {
      options.confirm()
      const plan = await this.plan(user, node, options)
      if (plan.running && !options.scheduled) throw notStopped(node)
      return takeSnapshot(
        { config: this.#config, parts: this.#parts, directory: this.directory, records: this.records },
        { user, node, plan, options },
        tell,
        journal
      )
    }
    const failed = blame(
      node,
      'snapshot-failed',
      'Your container and your other snapshots are as they were. Try again.'
    )
    return this.#containers
      .change(user, node, SNAPSHOT, report, steps, { join: false, alsoArchive: true })
      .catch((error: unknown) => {
        // What the NAS had not answered may still have made a file.
        this.#mayBeUntidy = true
        return failed(error)
      })
  }

  /**
   * Follows the snapshot that is being taken of that container to its end.
   * @returns what came of it; undefined when none is being taken @throws whatever `take` throws
   */
  async follow(user: User, node: NodeConfig, report: Report): Promise<SnapshotRecord | undefined> {
    const followed = await this.#operations.follow(user, node.name, [SNAPSHOT], report)
    return followed ? this.records.listFor(user).find(record => record.node === node.name) : undefined
  }

  /**
   * Neither a row without a file, which would promise what cannot be recovered, nor a file without a row is left by a crash: what has
   * been begun is ended when things are tidied.
   * @throws UserError `snapshots-unavailable`
   */
  async remove(user: User, record: SnapshotRecord): Promise<void> {
    await this.directory.check()
    this.records.beginRemoval(record)
    await this.#endRemovals(user)
  }

  /** Deletes the scheduled snapshots whose time is over. @throws UserError `snapshots-unavailable` */
  async prune(user: User): Promise<SnapshotRecord[]> {
    const byNode = Object.values(Object.groupBy(this.records.listFor(user), ({ node }) => node))
    const expired = byNode.flatMap(records => selectExpired(records ?? [], this.#config.snapshots))
    for (const record of expired) await this.remove(user, record)
    return expired
  }

  /** Reads an archive whole, as it lies on the NAS. @returns what is wrong with it @throws UserError `snapshots-unavailable` */
  async verify(user: User, record: SnapshotRecord, report: Report): Promise<string | undefined> {
    try {
      const archive = { user: user.name, name: record.name, claims: { ...record, instanceName: record.instance } }
      const onProgress = (readBytes: number) => report(`reading ${record.name}`, readBytes / record.sizeBytes)
      if (!(await this.directory.examine(archive, onProgress))) return 'the file is gone'
      return undefined
    } catch (error) {
      if (error instanceof UserError && error.reason === 'archive-refused') return error.message
      if ((error as NodeJS.ErrnoException).syscall === undefined) throw error
      return `the file cannot be read: ${(error as Error).message}`
    }
  }

  /** Before a user's containers are deleted: without the NAS the user would be left half removed. @throws UserError `snapshots-unavailable` */
  async needRemovable(user: User): Promise<void> {
    if (this.#hasFiles(user)) await this.directory.check()
  }

  /** All of a user's who is going. @returns whether the user's directory is gone too @throws UserError `snapshots-unavailable` */
  async removeAll(user: User): Promise<boolean> {
    const records = this.records.listFor(user)
    if (!this.#hasFiles(user) && this.#config.snapshots.dir === undefined) return true
    for (const record of records) this.records.beginRemoval(record)
    await this.#endRemovals(user)
    await this.directory.removePartials(user.name, () => false)
    return this.directory.removeUser(user.name)
  }

  /** From now on removes what crashes have left, and what could not be removed while the NAS was away. */
  keepTidy(users: () => readonly User[]): void {
    void this.removeStrays(users())
    const again = () => this.#mayBeUntidy && void this.removeStrays(users())
    this.#timer = setInterval(again, TIDY_EVERY_MS).unref()
  }

  close(): void {
    clearInterval(this.#timer)
  }

  /** Partial files that no operation knows of any more, and archives that were being removed. */
  async removeStrays(users: readonly User[]): Promise<void> {
    if (this.#config.snapshots.dir === undefined) return
    this.#mayBeUntidy = false
    try {
      for (const user of users) {
        await this.directory.removePartials(user.name, id => this.#operations.stepOf(id) !== undefined)
        await this.#endRemovals(user)
      }
    } catch (err) {
      this.#mayBeUntidy = true
      this.#parts.log.warn({ err }, 'files may be left in the directory for snapshots; it is tried again')
    }
  }

  #hasFiles(user: User): boolean {
    return this.records.listFor(user).length + this.records.listRemoving(user).length > 0
  }

  async #endRemovals(user: User): Promise<void> {
    try {
      for (const name of this.records.listRemoving(user)) {
        await this.directory.remove(user.name, name)
        this.records.endRemoval(name)
      }
    } catch (error) {
      this.#mayBeUntidy = true
      throw error
    }
  }

  #underwayElsewhere(user: User, node: NodeConfig): number {
    const others = [...this.#config.nodes.keys()].filter(name => name !== node.name)
    const kinds = (name: string) => [this.#operations.running(user, name), this.#operations.archiving(user, name)]
    return others.filter(name => kinds(name).some(operation => operation?.kind === SNAPSHOT)).length
  }

  /** What a crash or a failure left goes; only an archive that had been written to its end is kept. */
  async #resolve({ node: nodeName, phase, details }: InterruptedOperation, user: User | undefined): Promise<string> {
    const node = this.#config.nodes.get(nodeName)
    if (!node || !user) throw new Error(`put ${nodeName} back into berth.yaml: half a snapshot is there`)
    const { copy, partial, directory, record } = takingSchema.parse(details)
    // Of a directory that is no longer berth's nothing can be said.
    const isOurs = directory === this.#config.snapshots.dir
    const whole = phase === 'publishing' ? record : undefined
    // LXD lets go of the copy only when it has ended its part, which can take days; the NAS needs the room before.
    if (isOurs && !whole) await this.directory.remove(user.name, partial).catch(() => {})
    await discard(this.#parts.lxdFor(node), copy)
    if (!isOurs) return 'nothing was kept'
    if (whole) {
      await this.directory.publish(user.name, partial, whole.name)
      this.records.add(whole)
      return 'the archive was whole'
    }
    await this.directory.remove(user.name, partial)
    return 'nothing was kept'
  }
}

export const notStopped = (node: NodeConfig): UserError =>
  new UserError('not-stopped', `It must be stopped on ${node.name}, so that its files are of one moment.`, {
    hint: `Stop it with: ssh ${node.name}-manage stop`
  })
