import { z } from 'zod'
import { configMap, listOf, text, type ConfigMap } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'
import { collectionAt } from './collection.ts'
import { getServer, listMembers } from './server.ts'
import type { WaitOptions } from './wait.ts'

const networkSchema = z.looseObject({
  name: z.string(),
  description: text,
  type: text,
  /** False for interfaces of the host that LXD only sees. */
  managed: z.boolean().default(false),
  /** `Created`; in a cluster `Pending` until it was made for all members at once, `Errored` where that failed. */
  status: text,
  /** The members of a cluster for which it is named or made. */
  locations: listOf(z.string()),
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

/**
 * POST /1.0/networks; in a cluster first for each member by itself, then for all, as LXD wants it (its page "How to create a
 * network": in a cluster). Goes on where an earlier try ended half-way.
 */
export async function createNetwork(
  lxd: LxdClient,
  network: NetworkPut & { readonly name: string },
  options?: WaitOptions
): Promise<void> {
  const { clustered } = await getServer(lxd, { signal: options?.signal })
  if (clustered) {
    const { type, name } = network
    const named = (await networks.find(lxd, name, { signal: options?.signal }))?.locations ?? []
    for (const target of await listMembers(lxd, { signal: options?.signal })) {
      if (named.includes(target)) continue
      await lxd.operate('POST', apiPath`/1.0/networks`, { ...options, query: { target }, json: { type, name } })
    }
  }
  await networks.create(lxd, network, options)
}

const leaseSchema = z.looseObject({ hostname: text, hwaddr: text, address: text, type: text, location: text })
export type NetworkLease = z.output<typeof leaseSchema>

/** GET /1.0/networks/NAME/leases: addresses given and pinned, of instances in the client's project. */
export function listLeases(lxd: LxdClient, network: string, options?: CallOptions): Promise<NetworkLease[]> {
  return lxd.get(apiPath`/1.0/networks/${network}/leases`, listOf(leaseSchema), options)
}
