import { z } from 'zod'
import { configMap, listOf, text, type ConfigMap } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'
import { collectionAt } from './collection.ts'

const networkSchema = z.looseObject({
  name: z.string(),
  description: text,
  type: text,
  /** False for interfaces of the host that LXD only sees. */
  managed: z.boolean().default(false),
  status: text,
  config: configMap,
  used_by: listOf(z.string())
})
export type Network = z.output<typeof networkSchema>

export interface NetworkPut {
  /** For a new one: `bridge` unless given. */
  readonly type?: string
  readonly description?: string
  readonly config: ConfigMap
}

/** /1.0/networks */
export const networks = collectionAt<typeof networkSchema, NetworkPut>(apiPath`/1.0/networks`, networkSchema)

const leaseSchema = z.looseObject({ hostname: text, hwaddr: text, address: text, type: text, location: text })
export type NetworkLease = z.output<typeof leaseSchema>

/** GET /1.0/networks/NAME/leases: addresses given and pinned, of instances in the client's project. */
export function listLeases(lxd: LxdClient, network: string, options?: CallOptions): Promise<NetworkLease[]> {
  return lxd.get(apiPath`/1.0/networks/${network}/leases`, listOf(leaseSchema), options)
}
