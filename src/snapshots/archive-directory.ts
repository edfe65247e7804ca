import type { Database } from '../db/open.ts'
import { UserError } from '../errors.ts'
import type { LxdEndpoint } from '../lxd/transport.ts'
import { unavailable } from './archive-files.ts'
import type { ArchiveOrder, BackupOrder } from './archive-process.ts'
import { ArchiveProcesses, type ArchiveProcess } from './archive-processes.ts'
import type { ArchiveContents } from './inspect.ts'
import type { WriteOptions } from './write-archive.ts'

/** The name of an archive that is being written by that operation. */
export const partialName = (operation: number): string => `.partial-${operation}`

type OnProgress = (doneBytes: number) => void

/** An archive that has been begun: it becomes one by `store` and `publish`, or nothing. */
export interface NewArchive {
  /**
   * Has the server make a backup and brings it into the file, and to the disk.
   * @throws UserError `no-space`, `snapshots-unavailable`, as `writeArchive`; LxdError
   */
  store(
    endpoint: LxdEndpoint,
    backup: BackupOrder,
    options: Omit<WriteOptions, 'instance' | 'onProgress'>,
    onProgress: OnProgress
  ): Promise<ArchiveContents>
  close(): Promise<void>
}

const PARTIAL = /^\.partial-(\d+)$/

/**
 * `snapshots.dir`, as archive-files.ts has it. Whatever is asked of it has an end: a NAS that is gone would hold up whoever asks it
 * for ever, so it is asked by processes that can be given up.
 */
export class ArchiveDirectory {
  readonly #path: string | undefined
  readonly #database: Database
  readonly #processes: ArchiveProcesses
  #checking: Promise<void> | undefined

  constructor(path: string | undefined, database: Database, environment: Readonly<NodeJS.ProcessEnv>) {
    this.#path = path
    this.#database = database
    this.#processes = new ArchiveProcesses(path ?? '', environment)
  }

  /** @throws UserError `snapshots-unavailable` where there is none */
  get path(): string {
    if (this.#path !== undefined) return this.#path
    throw new UserError('snapshots-unavailable', 'This lab keeps no snapshots: snapshots.dir is not set.', {
      hint: 'Ask your admin to set it in berth.yaml.'
    })
  }

  /**
   * Is it there, and the one it was before? The first time, it is marked as berth's; from then on a mount point without its NAS,
   * which has no mark, is not written to.
   * @throws UserError `snapshots-unavailable` within ten seconds
   */
  async check(): Promise<void> {
    this.#checking ??= this.#checkMarker(this.path).finally(() => (this.#checking = undefined))
    await this.#checking
  }

  /** Bytes that berth's user may still write. */
  async freeBytes(): Promise<number> {
    await this.check()
    return this.#processes.shared.call('freeBytes', [])
  }

  /** A new file in the user's directory, for its owner alone. @throws UserError `no-space`, `snapshots-unavailable` */
  async create(user: string, partial: string): Promise<NewArchive> {
    await this.check()
    const process = this.#processes.start()
    try {
      await process.call('create', [user, partial])
    } catch (error) {
      await process.end()
      throw error
    }
    let isStored = false
    return {
      store: async (endpoint, backup, options, onProgress) => {
        const contents = await process.call('store', [endpoint, backup, options], onProgress)
        isStored = true
        return contents
      },
      close: () => (isStored ? this.#processes.giveBack(process) : process.end())
    }
  }

  /** Gives a stored archive its name, for good. Doing so again changes nothing. @throws UserError `snapshots-unavailable` */
  async publish(user: string, partial: string, name: string): Promise<void> {
    await this.check()
    await this.#processes.shared.call('publish', [user, partial, name])
  }

  /**
   * Makes an instance of an archive that is inspected on its way, under a name and on a pool of ours.
   * @returns false when there is no such file
   * @throws UserError `archive-refused`, `snapshots-unavailable`; an Error with a `syscall` when it cannot be read; LxdError
   */
  bring(
    endpoint: LxdEndpoint,
    archive: ArchiveOrder,
    instance: { readonly name: string; readonly pool: string },
    onProgress: OnProgress
  ): Promise<boolean> {
    return this.#alone(process => process.call('bring', [endpoint, archive, instance], onProgress))
  }

  /**
   * Reads an archive to its end and inspects it.
   * @returns false when there is no such file
   * @throws UserError `archive-refused`, `snapshots-unavailable`; an Error with a `syscall` when it cannot be read
   */
  examine(archive: ArchiveOrder, onProgress: OnProgress): Promise<boolean> {
    return this.#alone(process => process.call('examine', [archive], onProgress))
  }

  /** @returns false when there was none @throws UserError `snapshots-unavailable` */
  async remove(user: string, name: string): Promise<boolean> {
    await this.check()
    return this.#processes.shared.call('remove', [user, name])
  }

  /** Deletes every partial file but those still being written. @throws UserError `snapshots-unavailable` */
  async removePartials(user: string, isAlive: (operation: number) => boolean): Promise<void> {
    for (const name of await this.list(user)) {
      const operation = PARTIAL.exec(name)?.[1]
      if (operation !== undefined && !isAlive(Number(operation))) await this.remove(user, name)
    }
  }

  /** Deletes the user's directory; @returns false when something is left in it that is not berth's */
  async removeUser(user: string): Promise<boolean> {
    await this.check()
    return this.#processes.shared.call('removeUser', [user])
  }

  /** The names of what is in the user's directory. @throws UserError `snapshots-unavailable` */
  async list(user: string): Promise<string[]> {
    await this.check()
    return this.#processes.shared.call('list', [user])
  }

  async #checkMarker(path: string): Promise<void> {
    const { shared } = this.#processes
    const found = await shared.call('readMarker', [])
    const expected = this.#database
      .prepare<[string], string>('SELECT marker FROM snapshot_directories WHERE path = ?')
      .pluck()
      .get(path)
    if (expected === undefined) this.#adopt(path, found ?? (await shared.call('writeMarker', [])))
    else if (found !== expected) {
      const what = found === undefined ? 'it has lost its file .berth' : 'its file .berth is another one'
      throw unavailable(path, `${what}. Is the NAS mounted?`)
    }
  }

  #adopt(path: string, marker: string): void {
    this.#database.prepare('INSERT OR IGNORE INTO snapshot_directories (path, marker) VALUES (?, ?)').run(path, marker)
  }

  async #alone<T>(work: (process: ArchiveProcess) => Promise<T>): Promise<T> {
    await this.check()
    const process = this.#processes.start()
    try {
      const done = await work(process)
      await this.#processes.giveBack(process)
      return done
    } catch (error) {
      await process.end()
      throw error
    }
  }
}
