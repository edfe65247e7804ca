import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { configMap, deviceMap, dictOf, listOf, text, type ConfigMap, type DeviceMap } from './answer.ts'
import { apiPath } from './api-path.ts'
import { absentIfNotFound, type CallOptions, type LxdClient } from './client.ts'
import { LxdError } from './lxd-error.ts'
import type { WaitOptions } from './wait.ts'

const instanceSchema = z.looseObject({
  name: z.string(),
  description: text,
  /** `Running`, `Stopped`, `Frozen`, `Error`; `status_code` is the one to decide by. */
  status: z.string(),
  status_code: z.number(),
  type: text,
  architecture: text,
  location: text,
  project: text,
  ephemeral: z.boolean().default(false),
  created_at: text,
  /** Time of the last start; 1970 when there was none. */
  last_used_at: text,
  profiles: listOf(z.string()),
  config: configMap,
  devices: deviceMap,
  expanded_config: configMap,
  expanded_devices: deviceMap
})
export type Instance = z.output<typeof instanceSchema>

/** Instance status codes (API description: "Status codes"). */
export const STATUS = { running: 103, stopped: 102, frozen: 110, error: 112 } as const

const addressSchema = z.looseObject({ family: text, address: text, netmask: text, scope: text })
const stateSchema = z.looseObject({
  status: z.string(),
  status_code: z.number(),
  pid: z.number().default(0),
  /** -1 when it cannot be counted. */
  processes: z.number().default(-1),
  started_at: text,
  /** Nanoseconds of processor time since the start. */
  cpu: z.looseObject({ usage: z.number().default(0) }).nullish(),
  /** Bytes. */
  memory: z.looseObject({ usage: z.number().default(0), usage_peak: z.number().default(0) }).nullish(),
  /** Bytes by disk device; absent where the pool's driver does not count them. */
  disk: dictOf(z.looseObject({ usage: z.number().default(0), total: z.number().default(0) })),
  network: dictOf(
    z.looseObject({ hwaddr: text, host_name: text, state: text, type: text, addresses: listOf(addressSchema) })
  )
})
export type InstanceState = z.output<typeof stateSchema>

export interface NewInstance {
  readonly name: string
  readonly source:
    | { readonly type: 'image'; readonly fingerprint: string; readonly project?: string }
    | { readonly type: 'image'; readonly alias: string; readonly project?: string }
    | { readonly type: 'copy'; readonly source: string; readonly project?: string; readonly instance_only?: boolean }
    | { readonly type: 'none' }
  readonly description?: string
  /** LXD 5.0 gives a copy none unless they are named here. */
  readonly profiles?: readonly string[]
  readonly config?: ConfigMap
  readonly devices?: DeviceMap
}
/** What PUT replaces as a whole. */
export type InstancePut = Pick<Instance, 'architecture' | 'config' | 'devices' | 'ephemeral' | 'profiles'> & {
  readonly description?: string
}

/** GET /1.0/instances?recursion=1 */
export function listInstances(lxd: LxdClient, options?: CallOptions): Promise<Instance[]> {
  return lxd.get(apiPath`/1.0/instances`, listOf(instanceSchema), { ...options, query: { recursion: 1 } })
}

/** GET /1.0/instances/NAME, with the etag for a later update. @throws LxdError 404 */
export async function getInstance(
  lxd: LxdClient,
  name: string,
  options?: CallOptions
): Promise<Instance & { etag: string }> {
  const { value, etag } = await lxd.getWithEtag(apiPath`/1.0/instances/${name}`, instanceSchema, options)
  return { ...value, etag }
}

/** As getInstance, undefined when there is none. */
export async function findInstance(
  lxd: LxdClient,
  name: string,
  options?: CallOptions
): Promise<(Instance & { etag: string }) | undefined> {
  return getInstance(lxd, name, options).catch(absentIfNotFound)
}

/** POST /1.0/instances, on the client's cluster member if it has one. Not started. @throws LxdError `failed` when the name is taken */
export async function createInstance(lxd: LxdClient, instance: NewInstance, options?: WaitOptions): Promise<void> {
  await lxd.operate('POST', apiPath`/1.0/instances`, {
    ...options,
    query: { target: lxd.target },
    json: { type: 'container', ...instance }
  })
}

/** PUT /1.0/instances/NAME: everything not given is gone. @throws LxdError 412 when it changed since `etag` was read */
export async function updateInstance(
  lxd: LxdClient,
  name: string,
  instance: InstancePut,
  etag: string | undefined,
  options?: WaitOptions
): Promise<void> {
  await lxd.operate('PUT', apiPath`/1.0/instances/${name}`, { ...options, json: instance, etag })
}

/** PATCH /1.0/instances/NAME: sets these keys and devices and leaves the others. A key set to `` is removed. */
export async function patchInstance(
  lxd: LxdClient,
  name: string,
  change: { readonly config?: ConfigMap; readonly devices?: DeviceMap },
  options?: WaitOptions & { readonly etag?: string }
): Promise<void> {
  await lxd.operate('PATCH', apiPath`/1.0/instances/${name}`, { ...options, json: change })
}

/** DELETE /1.0/instances/NAME; it must be stopped. */
export async function deleteInstance(lxd: LxdClient, name: string, options?: WaitOptions): Promise<void> {
  await lxd.operate('DELETE', apiPath`/1.0/instances/${name}`, options)
}

/** POST /1.0/instances/NAME; it must be stopped. @throws LxdError when the new name is taken */
export async function renameInstance(
  lxd: LxdClient,
  name: string,
  newName: string,
  options?: WaitOptions
): Promise<void> {
  await lxd.operate('POST', apiPath`/1.0/instances/${name}`, { ...options, json: { name: newName } })
}

/** A busy server may take so long to clear away what was a running container. */
const CLEARING_MS = 5000
const ASK_AGAIN_MS = 150

/** GET /1.0/instances/NAME/state */
export async function getInstanceState(
  lxd: LxdClient,
  name: string,
  options: CallOptions = {}
): Promise<InstanceState> {
  for (const untilMs = performance.now() + CLEARING_MS; ;) {
    try {
      return await lxd.get(apiPath`/1.0/instances/${name}/state`, stateSchema, options)
    } catch (error) {
      // What Incus 6.0.4 answers from the end of a container's first process until it is stopped: seen for 0.6 s.
      const isEnding = error instanceof LxdError && error.fault === 'refused' && error.status === 500
      if (!isEnding || performance.now() > untilMs) throw error
      await sleep(ASK_AGAIN_MS, undefined, { signal: options.signal })
    }
  }
}

/**
 * PUT /1.0/instances/NAME/state.
 * `graceMs` is how long the container may take to shut down by itself, after which LXD gives up (fault `failed`);
 * `force` kills it at once.
 */
export async function setInstanceState(
  lxd: LxdClient,
  name: string,
  action: 'start' | 'stop' | 'restart' | 'freeze' | 'unfreeze',
  { graceMs, force = false, ...options }: WaitOptions & { readonly graceMs?: number; readonly force?: boolean } = {}
): Promise<void> {
  await lxd.operate('PUT', apiPath`/1.0/instances/${name}/state`, {
    ...options,
    json: { action, force, timeout: graceMs === undefined ? -1 : Math.ceil(graceMs / 1000) }
  })
}

const metadataSchema = z.looseObject({ templates: dictOf(z.unknown()) })

/**
 * PUT /1.0/instances/NAME/metadata: from now on the server writes no files of its own making into the instance at its start.
 * An instance that never had any is left as it is.
 */
export async function dropTemplates(lxd: LxdClient, name: string, options?: WaitOptions): Promise<void> {
  const path = apiPath`/1.0/instances/${name}/metadata`
  const metadata = await lxd.find(path, metadataSchema, { signal: options?.signal })
  if (metadata && Object.keys(metadata.templates).length > 0)
    await lxd.operate('PUT', path, { ...options, json: { ...metadata, templates: {} } })
}

/** GET /1.0/instances/NAME/snapshots: does the instance have snapshots of LXD's own? */
export async function hasSnapshots(lxd: LxdClient, name: string, options?: CallOptions): Promise<boolean> {
  return (await lxd.get(apiPath`/1.0/instances/${name}/snapshots`, listOf(z.string()), options)).length > 0
}
