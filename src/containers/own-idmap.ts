import { randomInt } from 'node:crypto'
import { z } from 'zod'
import { configMap, listOf } from '../lxd/answer.ts'
import { apiPath } from '../lxd/api-path.ts'
import type { LxdClient } from '../lxd/client.ts'
import { getInstance, updateInstance } from '../lxd/instances.ts'
import { LxdError } from '../lxd/lxd-error.ts'

/** uids and gids of one isolated container. */
const SIZE = 65536
const TRIES = 5

const idmap = z
  .string()
  .transform(text => JSON.parse(text) as unknown)
  .pipe(z.array(z.looseObject({ Hostid: z.number(), Maprange: z.number() })).min(1))
const everyInstance = listOf(z.looseObject({ name: z.string(), project: z.string().default(''), config: configMap }))

/** What an instance may be given before `assignOwnIdmap`, which then has one change less to make. */
export const NOT_ISOLATED = { 'security.idmap.isolated': 'false' } as const

/**
 * Gives a stopped isolated container uids of its own for good (`security.idmap.base`). LXD's own choice cannot be relied on: seen
 * with 5.0.2, containers made at the same time were given the same range or one outside the node's, and so are containers of the
 * same name in two projects.
 * @throws LxdError
 */
export async function assignOwnIdmap(lxd: LxdClient, name: string): Promise<void> {
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const { first, count } = await readNodeRange(lxd, name)
    const taken = await readTaken(lxd, name)
    const free = Array.from({ length: count }, (_, slot) => first + slot * SIZE).filter(
      base => !taken.some(other => Math.abs(other - base) < SIZE)
    )
    if (free.length === 0)
      throw new LxdError('refused', 'no uid range is left: widen root in /etc/subuid and /etc/subgid')
    const base = free[randomInt(free.length)] as number
    await changeConfig(lxd, name, { 'security.idmap.isolated': undefined, 'security.idmap.base': String(base) })
    // Whoever else was choosing at the same time sees the clash too, and both choose again.
    if (!(await readTaken(lxd, name)).some(other => Math.abs(other - base) < SIZE)) return
  }
  throw new LxdError('refused', 'no uid range of its own was to be had')
}

/** A container that is not isolated has the whole range of the node: nothing else tells which it is. */
async function readNodeRange(lxd: LxdClient, name: string): Promise<{ first: number; count: number }> {
  let { config } = await getInstance(lxd, name)
  if (config['security.idmap.isolated'] !== 'false' || config['security.idmap.base'] !== undefined) {
    await changeConfig(lxd, name, { 'security.idmap.base': undefined, ...NOT_ISOLATED })
    config = (await getInstance(lxd, name)).config
  }
  const [{ Hostid, Maprange }] = idmap.parse(config['volatile.idmap.next'] ?? '') as [
    { Hostid: number; Maprange: number }
  ]
  // The first slot is that of containers which are not isolated.
  return { first: Hostid + SIZE, count: Math.floor(Maprange / SIZE) - 1 }
}

/** The bases of all other isolated containers of the server. */
async function readTaken(lxd: LxdClient, name: string): Promise<number[]> {
  const query = { recursion: 1, 'all-projects': true, project: undefined }
  const instances = await lxd.get(apiPath`/1.0/instances`, everyInstance, { query })
  return instances
    .filter(instance => instance.name !== name || instance.project !== lxd.project)
    .map(({ config }) => Number(config['security.idmap.base'] ?? config['volatile.idmap.base'] ?? 0))
    .filter(base => base > 0)
}

/** PUT, since a key that PATCH empties goes on counting as empty: LXD 5.0.2 would not see the profile's value below it. */
async function changeConfig(lxd: LxdClient, name: string, change: Record<string, string | undefined>): Promise<void> {
  const { etag, config, architecture, devices, ephemeral, profiles, description } = await getInstance(lxd, name)
  const entries = Object.entries({ ...config, ...change }).filter(([, value]) => value !== undefined)
  const changed = Object.fromEntries(entries) as Record<string, string>
  await updateInstance(lxd, name, { architecture, devices, ephemeral, profiles, description, config: changed }, etag)
}
