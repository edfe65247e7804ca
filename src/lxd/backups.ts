import type { Readable } from 'node:stream'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'
import { getInstance } from './instances.ts'
import type { WaitOptions } from './wait.ts'

export interface NewBackup {
  /** Not to be shared by any two backups of a server: LXD 5.0.2 mixes up those of equally named instances in two projects. */
  readonly name: string
  /** A program of the server's and its options. */
  readonly compression: string
  /** When LXD deletes it by itself, should nobody else have. */
  readonly expiresAtMs: number
}

/** Hours of work for a container of terabytes; whoever waits can still give up by a signal. */
const BACKUP_TIMEOUT_MS = 24 * 3600_000

/**
 * POST /1.0/instances/NAME/backups: an archive of the instance without its snapshots, made on the server's own disk. It goes with
 * the instance.
 */
export async function createBackup(
  lxd: LxdClient,
  instance: string,
  { name, compression, expiresAtMs }: NewBackup,
  options?: WaitOptions
): Promise<void> {
  await lxd.operate('POST', apiPath`/1.0/instances/${instance}/backups`, {
    timeoutMs: BACKUP_TIMEOUT_MS,
    ...options,
    json: {
      name,
      compression_algorithm: compression,
      expires_at: new Date(expiresAtMs).toISOString(),
      instance_only: true,
      optimized_storage: false
    }
  })
}

/**
 * GET /1.0/instances/NAME/backups/BACKUP/export: the archive's bytes.
 * The stream fails when it ends before `sizeBytes`. Destroy it when it is not read to its end.
 */
export function exportBackup(
  lxd: LxdClient,
  instance: string,
  backup: string,
  options?: Pick<CallOptions, 'signal'>
): Promise<{ body: Readable; sizeBytes: number }> {
  return lxd.download(apiPath`/1.0/instances/${instance}/backups/${backup}/export`, options)
}

/**
 * POST /1.0/instances with an archive as the body: makes an instance of it, stopped, under `name` and on `pool`, whatever the
 * archive says of both. LXD takes the whole body before it looks at it: a body that fails leaves nothing.
 * @throws LxdError `lost` when the body failed, `failed` when the name is taken or the archive no good
 */
export async function importBackup(
  lxd: LxdClient,
  { name, pool }: { readonly name: string; readonly pool: string },
  body: Readable,
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
