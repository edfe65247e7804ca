import { z } from 'zod'
import { configMap, listOf, text } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'

const serverSchema = z
  .looseObject({
    auth: z.string(),
    api_extensions: listOf(z.string()),
    config: configMap,
    environment: z
      .looseObject({
        server: text,
        server_version: text,
        server_name: text,
        server_clustered: z.boolean().default(false),
        firewall: text,
        kernel_version: text,
        addresses: listOf(z.string()),
        certificate: text,
        certificate_fingerprint: text,
        storage: text
      })
      .prefault({})
  })
  .transform(({ auth, api_extensions, config, environment }) => ({
    kind: environment.server === 'incus' ? ('incus' as const) : ('lxd' as const),
    version: environment.server_version,
    /** Name within a cluster; the host name otherwise. */
    name: environment.server_name,
    extensions: new Set(api_extensions) as ReadonlySet<string>,
    /** Server-wide settings; empty for a client that is not trusted. */
    config,
    /** `xtables` or `nftables`. */
    firewall: environment.firewall,
    clustered: environment.server_clustered,
    trusted: auth === 'trusted',
    /** `address:port` where HTTPS is served. */
    addresses: environment.addresses,
    certificate: environment.certificate,
    certificateFingerprint: environment.certificate_fingerprint,
    kernelVersion: environment.kernel_version,
    /** Drivers in use, such as `btrfs`. */
    storage: environment.storage
  }))

/** What a server says of itself; an untrusted client learns only `kind`, `trusted` and the extensions. */
export type ServerInfo = z.output<typeof serverSchema>

/** GET /1.0, of the client's cluster member if it has one. */
export function getServer(lxd: LxdClient, options?: CallOptions): Promise<ServerInfo> {
  return lxd.get(apiPath`/1.0`, serverSchema, { query: { target: lxd.target }, ...options })
}

/** GET /1.0/cluster/members: their names. @throws LxdError `refused` by a server that is in no cluster */
export async function listMembers(lxd: LxdClient, options?: CallOptions): Promise<string[]> {
  const members = await lxd.get(apiPath`/1.0/cluster/members`, listOf(memberSchema), {
    ...options,
    query: { recursion: 1 }
  })
  return members.map(member => member.server_name)
}

const memberSchema = z.looseObject({ server_name: z.string() })

/** Lowest versions whose interface this client speaks. */
const LOWEST = { lxd: [5, 0, 0], incus: [6, 0, 0] } as const

/** Is the server new enough: LXD 5.0, Incus 6.0? */
export function isSupported(server: ServerInfo): boolean {
  const version = parseVersion(server.version)
  return version !== undefined && compareVersions(version, LOWEST[server.kind]) >= 0
}

export type Version = readonly [major: number, minor: number, patch: number]

/** `5.0.2` → [5, 0, 2]; `5.21.4 LTS` and `6.7` too; undefined for anything else. */
export function parseVersion(version: string): Version | undefined {
  const match = /^(\d+)\.(\d+)(?:\.(\d+))?(?![\d.])/.exec(version)
  return match ? [Number(match[1]), Number(match[2]), Number(match[3] ?? 0)] : undefined
}

/** Below, at or above zero as `one` is older than, equal to or newer than `other`. */
export function compareVersions(one: Version, other: Version): number {
  return one[0] - other[0] || one[1] - other[1] || one[2] - other[2]
}
