import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { open, mkdir, readdir, rename, rmdir, stat, statfs, unlink, type FileHandle } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../db/open.ts'
import { UserError } from '../errors.ts'
import { refuseArchive } from './archive-refusal.ts'

/** The name of an archive that is being written by that operation. */
export const partialName = (operation: number): string => `.partial-${operation}`

/** An archive being written: it becomes one by `publish` or nothing. */
export interface PartialArchive {
  /** @throws UserError `no-space`, `snapshots-unavailable` */
  write(chunk: Uint8Array): Promise<void>
  /** Brings all that was written to the disk. @throws as `write` */
  flush(): Promise<void>
  close(): Promise<void>
}

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants
const MARKER = '.berth'
const MAX_MARKER_BYTES = 128
const PARTIAL = /^\.partial-(\d+)$/
/** A NAS that is gone holds up whoever asks it, for ever: nobody waits longer than this to learn it. */
const ANSWER_TIMEOUT_MS = 10_000

/**
 * `snapshots.dir`: one directory a user, for berth's own user alone. Everything in it is reached from the opened directory and
 * never through a symlink: others may write to the NAS (openat(2), by way of /proc/self/fd).
 */
export class ArchiveDirectory {
  readonly #path: string | undefined
  readonly #database: Database
  #checking: Promise<void> | undefined

  constructor(path: string | undefined, database: Database) {
    this.#path = path
    this.#database = database
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
    const { path } = this
    // One at a time: each that the NAS does not answer keeps one of Node's four threads for files.
    this.#checking ??= this.#checkMarker(path).finally(() => (this.#checking = undefined))
    const timer = new AbortController()
    const late = sleep(ANSWER_TIMEOUT_MS, undefined, { signal: timer.signal }).then(() => {
      throw unavailable(path, `it has not answered for ${ANSWER_TIMEOUT_MS / 1000} s`)
    })
    late.catch(() => {})
    try {
      await Promise.race([this.#checking, late])
    } finally {
      timer.abort()
    }
  }

  /** Bytes that berth's user may still write. */
  async freeBytes(): Promise<number> {
    await this.check()
    const { bavail, bsize } = await statfs(this.path).catch(translate(this.path))
    return bavail * bsize
  }

  /** A new file in the user's directory, for its owner alone. @throws UserError `no-space`, `snapshots-unavailable` */
  async create(user: string, partial: string): Promise<PartialArchive> {
    await this.check()
    const failed = translate(this.path)
    return this.#inUserDirectory(user, true, async at => {
      const file = await open(at(partial), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600).catch(failed)
      return {
        write: async chunk => {
          for (let done = 0; done < chunk.length;)
            done += (await file.write(chunk, done, chunk.length - done).catch(failed)).bytesWritten
        },
        flush: () => file.sync().catch(failed),
        close: () => file.close().catch(failed)
      }
    })
  }

  /** Gives a flushed partial its name, for good. Doing so again changes nothing. @throws UserError `snapshots-unavailable` */
  async publish(user: string, partial: string, name: string): Promise<void> {
    await this.check()
    await this.#inUserDirectory(user, false, async (at, directory) => {
      await rename(at(partial), at(name)).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT' || !(await exists(at(name)))) throw error
      })
      await syncDirectory(directory)
    })
  }

  /**
   * Opens an archive for reading; the caller closes it.
   * @returns undefined when there is no such file @throws UserError `archive-refused` for what is no plain file, `snapshots-unavailable`
   */
  async open(user: string, name: string): Promise<FileHandle | undefined> {
    await this.check()
    return this.#inUserDirectory(user, false, async at => {
      // Without O_NONBLOCK a planted fifo would hold us until somebody writes to it.
      const file = await open(at(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ELOOP') return refuseArchive(`${name} is a symbolic link.`)
        throw error
      })
      if ((await file.stat()).isFile()) return file
      await file.close()
      return refuseArchive(`${name} is no regular file.`)
    }).catch(absent)
  }

  /** @returns false when there was none @throws UserError `snapshots-unavailable` */
  async remove(user: string, name: string): Promise<boolean> {
    await this.check()
    return this.#inUserDirectory(user, false, async (at, directory) => {
      await unlink(at(name))
      await syncDirectory(directory)
      return true
    }).catch(error => absent(error) ?? false)
  }

  /** Deletes every partial file but those still being written. @returns their names */
  async removePartials(user: string, isAlive: (operation: number) => boolean): Promise<string[]> {
    await this.check()
    const removed = await this.#inUserDirectory(user, false, async at => {
      const stray = (await readdir(at('.'))).filter(name => {
        const operation = PARTIAL.exec(name)?.[1]
        return operation !== undefined && !isAlive(Number(operation))
      })
      for (const name of stray) await unlink(at(name))
      return stray
    }).catch(absent)
    return removed ?? []
  }

  /** Deletes the user's directory; @returns false when something is left in it that is not berth's */
  async removeUser(user: string): Promise<boolean> {
    await this.check()
    try {
      await rmdir(`${this.path}/${user}`)
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT') return true
      if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOTDIR') return false
      return translate(this.path)(error)
    }
  }

  /** Whose directories there are, and names of files in them; for `doctor` and `verify`. */
  async list(user: string): Promise<string[]> {
    await this.check()
    return (await this.#inUserDirectory(user, false, at => readdir(at('.'))).catch(absent)) ?? []
  }

  async #checkMarker(path: string): Promise<void> {
    const failed = translate(path)
    const root = await open(path, O_RDONLY | O_DIRECTORY).catch(failed)
    try {
      const at = `/proc/self/fd/${root.fd}/${MARKER}`
      const found = await readMarker(at).catch(failed)
      const expected = this.#database
        .prepare<[string], string>('SELECT marker FROM snapshot_directories WHERE path = ?')
        .pluck()
        .get(path)
      if (expected === undefined) this.#adopt(path, found ?? (await writeMarker(at).catch(failed)))
      else if (found !== expected) {
        const what = found === undefined ? 'it has lost its file .berth' : 'its file .berth is another one'
        throw new UserError('snapshots-unavailable', `${path}: ${what}. Is the NAS mounted?`, {
          hint: 'Please tell your admin, who finds the fault with: berth doctor'
        })
      }
      if (found !== undefined) return
      await syncDirectory(root)
    } finally {
      await root.close()
    }
  }

  #adopt(path: string, marker: string): void {
    this.#database.prepare('INSERT OR IGNORE INTO snapshot_directories (path, marker) VALUES (?, ?)').run(path, marker)
  }

  /** @throws NodeJS.ErrnoException ENOENT when there is no such directory or file; all else as UserError */
  async #inUserDirectory<T>(
    user: string,
    make: boolean,
    work: (at: (name: string) => string, directory: FileHandle) => Promise<T>
  ): Promise<T> {
    const path = `${this.path}/${user}`
    const failed = translate(path)
    const root = await open(this.path, O_RDONLY | O_DIRECTORY).catch(failed)
    let directory: FileHandle | undefined
    try {
      const entry = `/proc/self/fd/${root.fd}/${user}`
      if (make) {
        await mkdir(entry, { mode: 0o700 }).then(
          () => syncDirectory(root),
          (error: NodeJS.ErrnoException) => error.code === 'EEXIST' || failed(error)
        )
      }
      directory = await open(entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      const { fd } = directory
      const { uid } = await directory.stat()
      if (uid !== process.getuid?.()) throw unavailable(path, 'it belongs to somebody else')
      return await work(name => `/proc/self/fd/${fd}/${name}`, directory)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT' && !make) throw error
      if (code === 'ELOOP' || code === 'ENOTDIR') throw unavailable(path, 'something else stands in its place')
      return failed(error)
    } finally {
      await directory?.close()
      await root.close()
    }
  }
}

async function readMarker(at: string): Promise<string | undefined> {
  try {
    const file = await open(at, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(MAX_MARKER_BYTES), 0, MAX_MARKER_BYTES)
      return buffer.toString('latin1', 0, bytesRead).trim()
    } finally {
      await file.close()
    }
  } catch (error) {
    return absent(error)
  }
}

async function writeMarker(at: string): Promise<string> {
  const marker = randomUUID()
  const file = await open(at, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  try {
    await file.writeFile(`${marker}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  return marker
}

/** Some file systems of NAS cannot, and say EINVAL. */
async function syncDirectory(directory: FileHandle): Promise<void> {
  await directory.sync().catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EINVAL' && error.code !== 'ENOTSUP') throw error
  })
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false
  )

function absent(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
}

function unavailable(path: string, what: string, cause?: unknown): UserError {
  return new UserError('snapshots-unavailable', `${path}: ${what}.`, {
    hint: 'Please tell your admin, who finds the fault with: berth doctor',
    cause
  })
}

/** For `.catch`: what a file system says becomes what a person can do about it. */
function translate(path: string): (error: unknown) => never {
  return error => {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || error instanceof UserError) throw error
    if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') throw noSpace(path, error)
    throw unavailable(path, WORDS[code] ?? code, error)
  }
}

const noSpace = (path: string, cause?: unknown): UserError =>
  new UserError('no-space', `${path} is full.`, {
    hint: 'Remove snapshots you no longer need (ssh NODE-manage snapshots), or ask your admin for room.',
    cause
  })

const WORDS: Readonly<Record<string, string>> = {
  ENOENT: 'it is not there',
  ENOTDIR: 'it is no directory',
  EROFS: 'it can only be read',
  EACCES: 'it is closed to berth',
  EPERM: 'it is closed to berth',
  ESTALE: 'the NAS has lost it',
  EIO: 'the NAS does not answer',
  ENOTCONN: 'the NAS does not answer'
}
