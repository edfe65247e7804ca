import type { FileHandle } from 'node:fs/promises'
import { importBackup, streamBackup, type NewBackup } from '../lxd/backups.ts'
import { LxdClient } from '../lxd/client.ts'
import type { LxdEndpoint } from '../lxd/transport.ts'
import { ArchiveFiles, type PartialArchive } from './archive-files.ts'
import { packFault, type Answer, type Call } from './archive-calls.ts'
import { inspectArchive, inspectPieces, type ArchiveClaims, type ArchiveContents, type Compression } from './inspect.ts'
import { writeArchive, type WriteOptions } from './write-archive.ts'

/* What berth forks for everything that touches the NAS: this may hang for ever, berth may not (docs/decisions/0011). */

/** Not each piece is worth a message; the last one is. */
type Tell = (doneBytes: number, isLast?: boolean) => void

/** Of which instance, and what the backup is called on the server meanwhile. */
export interface BackupOrder {
  readonly instance: string
  readonly name: string
  readonly expiresAtMs: number
}

/** Which file, and what it must turn out to be. */
export interface ArchiveOrder {
  readonly user: string
  readonly name: string
  readonly claims: ArchiveClaims
}

/**
 * What the server packs with, the first that it takes. Level 2 of zstd takes two thirds of the time of its default, 3, which the server's walk over
 * the files and the inspection need too, and is read faster by a fifth; archives grow by a twentieth (docs/decisions/0012).
 */
const PROGRAMS = { zstd: ['zstd -2', 'zstd'], gzip: ['gzip'], none: ['none'] } satisfies Record<
  Compression,
  NewBackup['compression']
>

const files = new ArchiveFiles(process.argv[2] as string)
let partial: PartialArchive | undefined

const calls = {
  readMarker: () => files.readMarker(),
  writeMarker: () => files.writeMarker(),
  freeBytes: () => files.freeBytes(),
  publish: (user: string, from: string, name: string) => files.publish(user, from, name),
  remove: (user: string, name: string) => files.remove(user, name),
  removeUser: (user: string) => files.removeUser(user),
  list: (user: string) => files.list(user),

  async create(user: string, name: string): Promise<void> {
    partial = await files.create(user, name)
  },

  /** Has the server make a backup of that instance, and brings it into what was created. */
  async store(
    endpoint: LxdEndpoint,
    { instance, name, expiresAtMs }: BackupOrder,
    options: Omit<WriteOptions, 'instance' | 'onProgress'>,
    tell: Tell
  ): Promise<ArchiveContents> {
    const { compression } = options
    const lxd = new LxdClient(endpoint)
    const body = streamBackup(lxd, instance, { name, compression: PROGRAMS[compression], expiresAtMs })
    const onProgress = (doneBytes: number) => tell(doneBytes)
    const contents = await writeArchive(body, partial as PartialArchive, { ...options, instance, onProgress })
    await lxd.close()
    return contents
  },

  /** Makes an instance of an archive. @returns false when there is no such file */
  async bring(
    endpoint: LxdEndpoint,
    { user, name, claims }: ArchiveOrder,
    instance: { name: string; pool: string },
    tell: Tell
  ): Promise<boolean> {
    const file = await files.open(user, name)
    if (!file) return false
    const { sizeBytes } = claims
    let fault: unknown
    const inspected = async function* () {
      try {
        yield* inspectPieces(file, claims, readBytes => tell(readBytes, readBytes === sizeBytes))
      } catch (error) {
        fault = error
        throw error
      }
    }
    const lxd = new LxdClient(endpoint)
    try {
      await importBackup(lxd, instance, inspected())
      return true
    } catch (error) {
      // What is wrong with the archive has broken the upload; LXD only saw it break.
      throw fault ?? error
    } finally {
      await lxd.close()
      close(file)
    }
  },

  /** Reads an archive to its end. @returns false when there is no such file */
  async examine({ user, name, claims }: ArchiveOrder, tell: Tell): Promise<boolean> {
    const file = await files.open(user, name)
    if (!file) return false
    try {
      await inspectArchive(file, claims, tell)
      return true
    } finally {
      close(file)
    }
  }
}
export type Calls = typeof calls

/** Without waiting: it waits for a read that is under way. */
function close(file: FileHandle): void {
  file.close().catch(() => {})
}

const TELL_EVERY_MS = 100

function tellOf(id: number): Tell {
  let toldAtMs = -Infinity
  return (doneBytes, isLast) => {
    const now = performance.now()
    if (now - toldAtMs < TELL_EVERY_MS && !isLast) return
    toldAtMs = now
    answer({ id, doneBytes })
  }
}

const answer = (message: Answer): void => {
  process.send?.(message)
}

process.on('message', ({ id, name, args }: Call) => {
  const call = calls[name] as (...args: unknown[]) => Promise<unknown>
  call(...args, tellOf(id)).then(
    value => answer({ id, value }),
    (error: unknown) => answer({ id, fault: packFault(error) })
  )
})
// berth ends it by hanging up. An orderly end would wait for what the NAS still keeps.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
