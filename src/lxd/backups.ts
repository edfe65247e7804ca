import { setTimeout as sleep } from 'node:timers/promises'
import { apiPath } from './api-path.ts'
import type { LxdClient } from './client.ts'
import { getInstance } from './instances.ts'
import { LxdError } from './lxd-error.ts'
import { waitForOperation, type WaitOptions } from './wait.ts'

export interface NewBackup {
  /** Not to be shared by any two backups of a server: LXD 5.0.2 mixes up those of equally named instances in two projects. */
  readonly name: string
  /** Programs of the server's with their options: the first that it takes. Servers differ in the options they allow. */
  readonly compression: readonly [string, ...string[]]
  /** When LXD deletes it by itself, should nobody else have. */
  readonly expiresAtMs: number
}

/** Hours of work for a container of terabytes; whoever waits can still give up by a signal. */
const BACKUP_TIMEOUT_MS = 24 * 3600_000
const FOLLOW_EVERY_MS = 200
/** LXD 5.0.2 neither goes on nor ends when its disk is full; a backup of nothing but zeros still grows all the time. */
const STANDSTILL_MS = 3 * 60_000

/**
 * POST /1.0/instances/NAME/backups: an archive of the instance without its snapshots, made on the server's own disk. It goes with
 * the instance. Its bytes come while it is being made (GET …/backups/BACKUP/export): the server writes the file from front to back
 * and changes nothing it has written.
 * @throws LxdError, also when the server cannot make it whole
 */
export async function* streamBackup(lxd: LxdClient, instance: string, backup: NewBackup): AsyncGenerator<Buffer, void> {
  const { name } = backup
  const begun = await beginBackup(lxd, instance, backup)
  let isMade = begun === undefined
  const made = begun && waitForOperation(lxd, begun, { timeoutMs: BACKUP_TIMEOUT_MS }).then(() => (isMade = true))
  made?.catch(() => {})
  let [at, grownAtMs] = [0, performance.now()]
  for (;;) {
    const isLast = isMade
    try {
      // A byte that is known is asked for again: there is always an answer then, also when nothing is new.
      const known = Math.min(at, 1)
      let skip = known
      for await (const chunk of lxd.download(apiPath`/1.0/instances/${instance}/backups/${name}/export`, at - known)) {
        const fresh = chunk.subarray(skip)
        skip = 0
        at += fresh.length
        if (fresh.length === 0) continue
        yield fresh
        grownAtMs = performance.now()
      }
    } catch (error) {
      // It may not have been begun yet. If it never will be, `made` says why.
      if (isLast || !(error instanceof LxdError)) throw error
    }
    if (isLast) return
    if (performance.now() - grownAtMs > STANDSTILL_MS)
      throw new LxdError(
        'failed',
        `the backup has not grown for ${STANDSTILL_MS / 60_000} minutes: is there room on the server's own disk?`
      )
    await Promise.race([made, sleep(FOLLOW_EVERY_MS)])
  }
}

/** A server that does not take a program says so before it begins, with 400. @throws LxdError */
async function beginBackup(
  lxd: LxdClient,
  instance: string,
  { name, compression: [program, ...others], expiresAtMs }: NewBackup
): ReturnType<LxdClient['begin']> {
  try {
    return await lxd.begin('POST', apiPath`/1.0/instances/${instance}/backups`, {
      json: {
        name,
        compression_algorithm: program,
        expires_at: new Date(expiresAtMs).toISOString(),
        instance_only: true,
        optimized_storage: false
      }
    })
  } catch (error) {
    const [next, ...rest] = others
    if (next === undefined || !(error instanceof LxdError && error.status === 400)) throw error
    return beginBackup(lxd, instance, { name, compression: [next, ...rest], expiresAtMs })
  }
}

/**
 * POST /1.0/instances with an archive as the body: makes an instance of it, stopped, under `name` and on `pool`, whatever the
 * archive says of both. LXD takes the whole body before it looks at it: a body that fails leaves nothing.
 * @throws LxdError `lost` when the body failed, `failed` when the name is taken or the archive no good
 */
export async function importBackup(
  lxd: LxdClient,
  { name, pool }: { readonly name: string; readonly pool: string },
  body: AsyncIterable<Uint8Array>,
  options?: WaitOptions
): Promise<void> {
  await lxd.operate('POST', apiPath`/1.0/instances`, {
    timeoutMs: BACKUP_TIMEOUT_MS,
    answerTimeoutMs: BACKUP_TIMEOUT_MS,
    ...options,
    content: body,
    headers: {
      'content-type': 'application/octet-stream',
      'x-lxd-name': name,
      'x-lxd-pool': pool,
      'x-incus-name': name,
      'x-incus-pool': pool
    }
  })
  if (lxd.target === undefined || (await getInstance(lxd, name)).location === lxd.target) return
  await lxd.operate('POST', apiPath`/1.0/instances/${name}`, {
    timeoutMs: BACKUP_TIMEOUT_MS,
    ...options,
    query: { target: lxd.target },
    json: { name, migration: true }
  })
}
