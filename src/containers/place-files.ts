import type { CallOptions, LxdClient } from '../lxd/client.ts'
import { deleteFile, pushFile, statFile } from '../lxd/files.ts'

export interface PlacedFile {
  readonly path: string
  readonly content: string
  readonly mode: number
}

/**
 * Writes files of root's into a *stopped* container: nothing in it runs, so nothing changes between two steps. What a member left
 * at a path is removed, never opened: writing to a symlink would follow it, and a fifo would swallow the text.
 * @throws LxdError when something stands in the way that cannot be removed
 */
export async function placeFiles(
  lxd: LxdClient,
  instance: string,
  files: readonly PlacedFile[],
  options: CallOptions
): Promise<void> {
  await Promise.all(
    files.map(async ({ path, content, mode }) => {
      await deleteFile(lxd, instance, path, options)
      await pushFile(lxd, instance, path, content, { uid: 0, gid: 0, mode, ...options })
    })
  )
}

/** As placeFiles: a real directory of root's at `path`; one that is there keeps what it holds. */
export async function placeDirectory(
  lxd: LxdClient,
  instance: string,
  path: string,
  options: CallOptions
): Promise<void> {
  const found = await statFile(lxd, instance, path, options)
  if (found?.type === 'directory') return
  if (found) await deleteFile(lxd, instance, path, options)
  await pushFile(lxd, instance, path, '', { uid: 0, gid: 0, mode: 0o755, type: 'directory', ...options })
}
