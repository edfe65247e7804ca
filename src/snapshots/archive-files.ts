import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { open, mkdir, readdir, rename, rmdir, stat, statfs, unlink, type FileHandle } from 'node:fs/promises'
import { UserError } from '../errors.ts'
import { refuseArchive } from './archive-refusal.ts'
import { unlessSilent } from './nas-silence.ts'

/** An archive being written: it becomes one by `publish` or nothing. */
export interface PartialArchive {
  /** @throws UserError `no-space`, `snapshots-unavailable` */
  write(chunk: Uint8Array): Promise<void>
  /** Brings all that was written to the disk, and closes it. @throws as `write` */
  finish(): Promise<void>
}

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants
const MARKER = '.berth'
const MAX_MARKER_BYTES = 128
/** As much may be on its way to the NAS: its silence is noticed while an archive is written, not only at its end. */
const FLUSH_EVERY_BYTES = 128 * 2 ** 20
const CHECK_TIMEOUT_MS = 10_000

/**
 * What lies in `snapshots.dir`: one directory a user, for berth's own user alone. Everything in it is reached from the opened
 * directory and never through a symlink: others may write to the NAS (openat(2), by way of /proc/self/fd). A NAS that does not
 * answer keeps what asks it for ever, so this runs in a process of its own (archive-process.ts).
 */
export class ArchiveFiles {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  /** What stands in berth's mark; undefined where there is none. @throws UserError `snapshots-unavailable`, as do all of these */
  readMarker(): Promise<string | undefined> {
    return unlessSilent(
      this.#inRoot(({ fd }) => readMarker(`/proc/self/fd/${fd}/${MARKER}`)),
      CHECK_TIMEOUT_MS
    )
  }

  /** Marks the directory as berth's; @returns what stands in the mark */
  writeMarker(): Promise<string> {
    return unlessSilent(
      this.#inRoot(async root => {
        const marker = await writeMarker(`/proc/self/fd/${root.fd}/${MARKER}`)
        await syncDirectory(root)
        return marker
      })
    )
  }

  /** Bytes that berth's user may still write. */
  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await unlessSilent(statfs(this.#path)).catch(translate(this.#path))
    return bavail * bsize
  }

  /** A new file in the user's directory, for its owner alone. @throws UserError `no-space` too */
  async create(user: string, partial: string): Promise<PartialArchive> {
    const failed = translate(this.#path)
    const file = await this.#inUserDirectory(user, true, at =>
      open(at(partial), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    )
    let unflushedBytes = 0
    let flushing = Promise.resolve()
    return {
      async write(chunk) {
        for (let done = 0; done < chunk.length;) {
          const { bytesWritten } = await unlessSilent(file.write(chunk, done, chunk.length - done)).catch(failed)
          done += bytesWritten
        }
        unflushedBytes += chunk.length
        if (unflushedBytes < FLUSH_EVERY_BYTES) return
        await flushing
        unflushedBytes = 0
        flushing = unlessSilent(file.datasync()).catch(failed)
        flushing.catch(() => {})
      },
      async finish() {
        await flushing
        await unlessSilent(file.sync()).catch(failed)
        await unlessSilent(file.close()).catch(failed)
      }
    }
  }

  /** Gives a finished partial its name, for good. Doing so again changes nothing. */
  async publish(user: string, partial: string, name: string): Promise<void> {
    await this.#inUserDirectory(user, false, async (at, directory) => {
      await rename(at(partial), at(name)).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT' || !(await exists(at(name)))) throw error
      })
      await syncDirectory(directory)
    })
  }

  /**
   * Opens an archive for reading; the caller closes it.
   * @returns undefined when there is no such file @throws UserError `archive-refused` for what is no plain file
   */
  async open(user: string, name: string): Promise<FileHandle | undefined> {
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

  /** @returns false when there was none */
  async remove(user: string, name: string): Promise<boolean> {
    return this.#inUserDirectory(user, false, async (at, directory) => {
      await unlink(at(name))
      await syncDirectory(directory)
      return true
    }).catch(error => absent(error) ?? false)
  }

  /** Deletes the user's directory; @returns false when something is left in it that is not berth's */
  async removeUser(user: string): Promise<boolean> {
    try {
      await unlessSilent(rmdir(`${this.#path}/${user}`))
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT') return true
      if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOTDIR') return false
      return translate(this.#path)(error)
    }
  }

  /** The names of what is in the user's directory. */
  async list(user: string): Promise<string[]> {
    return (await this.#inUserDirectory(user, false, at => readdir(at('.'))).catch(absent)) ?? []
  }

  async #inRoot<T>(work: (root: FileHandle) => Promise<T>): Promise<T> {
    const failed = translate(this.#path)
    const root = await open(this.#path, O_RDONLY | O_DIRECTORY).catch(failed)
    try {
      return await work(root).catch(failed)
    } finally {
      await root.close()
    }
  }

  /** @throws NodeJS.ErrnoException ENOENT when there is no such directory or file; all else as UserError */
  #inUserDirectory<T>(
    user: string,
    make: boolean,
    work: (at: (name: string) => string, directory: FileHandle) => Promise<T>
  ): Promise<T> {
    return unlessSilent(this.#enterUserDirectory(user, make, work))
  }

  async #enterUserDirectory<T>(
    user: string,
    make: boolean,
    work: (at: (name: string) => string, directory: FileHandle) => Promise<T>
  ): Promise<T> {
    const path = `${this.#path}/${user}`
    const failed = translate(path)
    const root = await open(this.#path, O_RDONLY | O_DIRECTORY).catch(failed)
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

export function unavailable(path: string, what: string, cause?: unknown): UserError {
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
