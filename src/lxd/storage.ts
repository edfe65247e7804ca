import { z } from 'zod'
import { configMap, listOf, text } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'

const poolSchema = z.looseObject({
  name: z.string(),
  description: text,
  /** `btrfs`, `zfs`, `dir`, … */
  driver: text,
  status: text,
  config: configMap,
  used_by: listOf(z.string())
})
export type StoragePool = z.output<typeof poolSchema>

const amount = z.looseObject({ used: z.number().default(0), total: z.number().default(0) }).prefault({})
const usageSchema = z.looseObject({ space: amount, inodes: amount }).transform(({ space, inodes }) => ({
  usedBytes: space.used,
  totalBytes: space.total,
  usedInodes: inodes.used,
  totalInodes: inodes.total
}))
export type PoolUsage = z.output<typeof usageSchema>

/** GET /1.0/storage-pools?recursion=1 */
export function listPools(lxd: LxdClient, options?: CallOptions): Promise<StoragePool[]> {
  return lxd.get(apiPath`/1.0/storage-pools`, listOf(poolSchema), { ...options, query: { recursion: 1 } })
}

/** GET /1.0/storage-pools/NAME; undefined when there is none. */
export function findPool(lxd: LxdClient, name: string, options?: CallOptions): Promise<StoragePool | undefined> {
  return lxd.find(apiPath`/1.0/storage-pools/${name}`, poolSchema, options)
}

/** GET /1.0/storage-pools/NAME/resources, on the client's cluster member. */
export function getPoolUsage(lxd: LxdClient, name: string, options?: CallOptions): Promise<PoolUsage> {
  return lxd.get(apiPath`/1.0/storage-pools/${name}/resources`, usageSchema, {
    ...options,
    query: { target: lxd.target }
  })
}
