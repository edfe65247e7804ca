import { openAsBlob } from 'node:fs'
import { FormData } from 'undici'
import { z } from 'zod'
import { dictOf, listOf, text, parseAnswer } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'
import type { WaitOptions } from './wait.ts'

const imageSchema = z.looseObject({
  fingerprint: z.string(),
  architecture: text,
  /** Bytes. */
  size: z.number().default(0),
  type: text,
  created_at: text,
  uploaded_at: text,
  properties: dictOf(z.string()),
  aliases: listOf(z.looseObject({ name: z.string(), description: text }))
})
export type Image = z.output<typeof imageSchema>

const aliasSchema = z.looseObject({ name: z.string(), target: z.string(), description: text })

/** GET /1.0/images?recursion=1 */
export function listImages(lxd: LxdClient, options?: CallOptions): Promise<Image[]> {
  return lxd.get(apiPath`/1.0/images`, listOf(imageSchema), { ...options, query: { recursion: 1 } })
}

/** GET /1.0/images/aliases/ALIAS, then the image it names; undefined when there is none. */
export async function findImage(lxd: LxdClient, alias: string, options?: CallOptions): Promise<Image | undefined> {
  const found = await lxd.find(apiPath`/1.0/images/aliases/${alias}`, aliasSchema, options)
  return found && getImage(lxd, found.target, options)
}

/** GET /1.0/images/FINGERPRINT; undefined when there is none. */
export function getImage(lxd: LxdClient, fingerprint: string, options?: CallOptions): Promise<Image | undefined> {
  return lxd.find(apiPath`/1.0/images/${fingerprint}`, imageSchema, options)
}

/**
 * POST /1.0/images with a split image: a metadata tarball and a squashfs or tar of the root file system, both read from disk
 * as they are sent.
 * @returns the fingerprint (SHA-256 of both) @throws LxdError `failed` when the same image is there already
 */
export async function importImage(
  lxd: LxdClient,
  files: { readonly metadataPath: string; readonly rootfsPath: string },
  options?: WaitOptions
): Promise<string> {
  const content = new FormData()
  content.append('metadata', await openAsBlob(files.metadataPath), 'metadata.tar')
  content.append('rootfs', await openAsBlob(files.rootfsPath), 'rootfs.img')
  const ended = await lxd.operate('POST', apiPath`/1.0/images`, {
    ...options,
    content,
    answerTimeoutMs: UPLOAD_TIMEOUT_MS
  })
  return parseAnswer(z.object({ fingerprint: z.string() }), ended?.metadata, 'image import').fingerprint
}

const UPLOAD_TIMEOUT_MS = 30 * 60_000

/** Makes `alias` name that image, moving it from another: PUT /1.0/images/aliases/ALIAS, or POST when it is new. */
export async function setImageAlias(
  lxd: LxdClient,
  alias: string,
  fingerprint: string,
  options?: WaitOptions
): Promise<void> {
  const path = apiPath`/1.0/images/aliases/${alias}`
  const json = { name: alias, target: fingerprint }
  if ((await lxd.find(path, aliasSchema, { signal: options?.signal })) === undefined)
    await lxd.operate('POST', apiPath`/1.0/images/aliases`, { ...options, json })
  else await lxd.operate('PUT', path, { ...options, json })
}

/** DELETE /1.0/images/FINGERPRINT, its aliases too. Containers made from it stay. */
export async function deleteImage(lxd: LxdClient, fingerprint: string, options?: WaitOptions): Promise<void> {
  await lxd.operate('DELETE', apiPath`/1.0/images/${fingerprint}`, options)
}
