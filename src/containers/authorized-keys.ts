import { Readable } from 'node:stream'
import { formatPublicKey } from '../directory/public-key.ts'
import type { Keys } from '../directory/keys.ts'
import type { User } from '../directory/users.ts'
import type { LxdClient } from '../lxd/client.ts'
import { execCaptured } from '../lxd/exec.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { readTemplate } from './templates.ts'

export const KEYS_DIRECTORY = '/etc/ssh/berth_keys'

/** berth's own list of a member's keys as sshd reads it (sshd(8), AUTHORIZED_KEYS FILE FORMAT). A disabled member has none. */
export function authorizedKeys(user: User, keys: Keys): { path: string; content: string; mode: number } {
  const lines = user.state === 'enabled' ? keys.listFor(user).map(formatPublicKey) : []
  const head =
    '# Written by berth at every change: see `ssh NODE-manage keys`. Your own go into ~/.ssh/authorized_keys.'
  return { path: `${KEYS_DIRECTORY}/${user.name}`, content: `${[head, ...lines].join('\n')}\n`, mode: 0o644 }
}

/** Together with the two seconds a killed program may take to be gone: at most five. */
const PUSH_TIMEOUT_MS = 3000

/**
 * Replaces the list in a *running* container by a program that runs in the container itself: whatever its root has put in the
 * way, nothing outside can be reached or held up.
 * @returns what was in the way, undefined when the list is in place
 * @throws LxdError when LXD is silent
 */
export async function pushAuthorizedKeys(lxd: LxdClient, user: User, content: string): Promise<string | undefined> {
  try {
    const { exitCode, stderr } = await execCaptured(lxd, user.name, {
      command: ['sh', '-c', readTemplate('push-keys.sh'), 'push-keys', user.name],
      stdin: Readable.from([content]),
      timeoutMs: PUSH_TIMEOUT_MS,
      maxBytes: 64 * 1024
    })
    return exitCode === 0 ? undefined : lastLine(stderr) || `sh ended with status ${exitCode}`
  } catch (error) {
    if (!(error instanceof LxdError) || error.fault === 'unreachable') throw error
    return error.fault === 'timed-out' ? 'it took too long' : 'no program can be run in the container'
  }
}

/** The last line a program in a container said, fit to be shown: the member's root wrote it. */
export function lastLine(text: string): string {
  const line = text.trimEnd().split('\n').at(-1) ?? ''
  return line.replace(/[^\x20-\x7e]/g, '?').slice(0, 200)
}
