import type { z } from 'zod'
import { listOf } from './answer.ts'
import { apiPath, type ApiPath } from './api-path.ts'
import { absentIfNotFound, type CallOptions, type LxdClient } from './client.ts'
import type { WaitOptions } from './wait.ts'

type Named<Put> = Put & { readonly name: string }

/** What LXD offers alike for profiles, projects, networks and their access lists. */
export interface Collection<Thing, Put> {
  /** All of them, without etags. */
  list(lxd: LxdClient, options?: CallOptions): Promise<Thing[]>
  /** One, with the etag for a later update; undefined when there is none. */
  find(lxd: LxdClient, name: string, options?: CallOptions): Promise<(Thing & { etag: string }) | undefined>
  /** @throws LxdError `refused` when the name is taken; the status differs: 409, 400, in Incus 6.0 also 500 */
  create(lxd: LxdClient, thing: Named<Put>, options?: WaitOptions): Promise<void>
  /** Replaces all of it; without an etag, whatever it was. @throws LxdError 412 when it changed since the etag was read */
  update(lxd: LxdClient, name: string, thing: Put, etag: string | undefined, options?: WaitOptions): Promise<void>
  /** @throws LxdError `refused` while something uses it, 404 when there is none */
  remove(lxd: LxdClient, name: string, options?: WaitOptions): Promise<void>
}

/** GET, POST on `path`; GET, PUT, DELETE on `path`/NAME. */
export function collectionAt<Schema extends z.ZodType<object>, Put extends object>(
  path: ApiPath,
  schema: Schema
): Collection<z.output<Schema>, Put> {
  const at = (name: string) => `${path}${apiPath`/${name}`}` as ApiPath
  return {
    list: (lxd, options) => lxd.get(path, listOf(schema), { ...options, query: { recursion: 1 } }),
    async find(lxd, name, options) {
      const found = await lxd.getWithEtag(at(name), schema, options).catch(absentIfNotFound)
      return found && { ...found.value, etag: found.etag }
    },
    async create(lxd, thing, options) {
      await lxd.operate('POST', path, { ...options, json: thing })
    },
    async update(lxd, name, thing, etag, options) {
      await lxd.operate('PUT', at(name), { ...options, json: thing, etag })
    },
    async remove(lxd, name, options) {
      await lxd.operate('DELETE', at(name), options)
    }
  }
}
