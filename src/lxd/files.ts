import { z } from 'zod'
import { envelope, listOf, parseAnswer } from './answer.ts'
import { apiPath } from './api-path.ts'
import { absentIfNotFound, type CallOptions, type LxdClient, type RawAnswer } from './client.ts'

/** Who owns a file and how, as the container sees it. `mode` holds the permission bits. */
export interface FileStat {
  readonly type: 'file' | 'directory' | 'symlink'
  readonly uid: number
  readonly gid: number
  readonly mode: number
}

const statSchema = z.object({
  type: z.enum(['file', 'directory', 'symlink']),
  uid: z.coerce.number().int(),
  gid: z.coerce.number().int(),
  mode: z
    .string()
    .regex(/^0?[0-7]{1,4}$/)
    .transform(mode => Number.parseInt(mode, 8))
})

const DEFAULT_MAX_BYTES = 4 * 2 ** 20

/**
 * HEAD /1.0/instances/NAME/files: of a running or stopped container. The last component is not followed when it is a symlink.
 * A fifo, a socket or a device is told as a `file`.
 * @returns undefined when there is no such file
 */
export async function statFile(
  lxd: LxdClient,
  instance: string,
  path: string,
  options?: CallOptions
): Promise<FileStat | undefined> {
  const answer = await lxd.raw('HEAD', filesOf(instance), { ...options, query: { path } }).catch(absentIfNotFound)
  return answer && readStat(answer, path)
}

/**
 * GET /1.0/instances/NAME/files: the bytes of a file, or the target of a symlink. Never where a member may have been: the server
 * waits for ever for a fifo's other end (LXD 5.0, Incus 6.0), and until then the container neither starts nor stops.
 * @returns undefined when there is no such file @throws LxdError `too-much` above `maxBytes`
 */
export async function pullFile(
  lxd: LxdClient,
  instance: string,
  path: string,
  { maxBytes = DEFAULT_MAX_BYTES, ...options }: CallOptions & { readonly maxBytes?: number } = {}
): Promise<(FileStat & { content: Buffer }) | undefined> {
  const answer = await lxd
    .raw('GET', filesOf(instance), { ...options, query: { path }, maxBytes })
    .catch(absentIfNotFound)
  return answer && { ...readStat(answer, path), content: answer.body }
}

/** GET /1.0/instances/NAME/files of a directory: the names in it; undefined when there is no such directory. */
export async function listDirectory(
  lxd: LxdClient,
  instance: string,
  path: string,
  options?: CallOptions
): Promise<string[] | undefined> {
  const answer = await lxd.raw('GET', filesOf(instance), { ...options, query: { path } }).catch(absentIfNotFound)
  if (answer === undefined || readStat(answer, path).type !== 'directory') return undefined
  const { metadata } = parseAnswer(envelope, JSON.parse(answer.body.toString()), path)
  return parseAnswer(listOf(z.string()), metadata, path)
}

/**
 * POST /1.0/instances/NAME/files: writes a file, makes a directory, or a symlink whose target is `content`.
 * Parent directories must exist. What is there is opened and overwritten, the target of a symlink, or a fifo.
 */
export async function pushFile(
  lxd: LxdClient,
  instance: string,
  path: string,
  content: string | Uint8Array,
  { uid, gid, mode, type = 'file', ...options }: Partial<FileStat> & CallOptions = {}
): Promise<void> {
  const wanted = { uid, gid, mode: mode?.toString(8).padStart(4, '0'), type, write: 'overwrite' }
  const headers: Record<string, string> = { 'content-type': 'application/octet-stream' }
  for (const [name, value] of Object.entries(wanted)) {
    if (value === undefined) continue
    headers[`x-lxd-${name}`] = headers[`x-incus-${name}`] = String(value)
  }
  await lxd.raw('POST', filesOf(instance), { ...options, query: { path }, headers, content: Buffer.from(content) })
}

/** DELETE /1.0/instances/NAME/files; a directory must be empty. @returns false when there was none */
export async function deleteFile(
  lxd: LxdClient,
  instance: string,
  path: string,
  options?: CallOptions
): Promise<boolean> {
  const answer = await lxd.raw('DELETE', filesOf(instance), { ...options, query: { path } }).catch(absentIfNotFound)
  return answer !== undefined
}

function filesOf(instance: string) {
  return apiPath`/1.0/instances/${instance}/files`
}

function readStat({ headers }: RawAnswer, path: string): FileStat {
  const header = (name: string) => headers[`x-lxd-${name}`] ?? headers[`x-incus-${name}`]
  const { type, uid, gid, mode } = {
    type: header('type'),
    uid: header('uid'),
    gid: header('gid'),
    mode: header('mode')
  }
  return parseAnswer(statSchema, { type, uid, gid, mode }, path)
}
