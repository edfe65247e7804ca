import type { Readable, Writable } from 'node:stream'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { exec, type ExecTerminal } from '../lxd/exec.ts'
import { STATUS } from '../lxd/instances.ts'
import { findContainer } from './find-container.ts'
import type { Parts } from './parts.ts'
import { blame } from './translate.ts'

export interface ShellRequest {
  /** The user in the container, a plain Linux name. */
  readonly loginUser: string
  /** A program and its arguments; undefined for a login shell. */
  readonly command: readonly string[] | undefined
  /** `term` as in the environment variable TERM. */
  readonly terminal: (ExecTerminal & { readonly term: string }) | undefined
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable
  onSignal(listener: (name: string) => void): void
  /** When it aborts, the program is killed. */
  readonly gone: AbortSignal
}

/**
 * Runs a program or a login shell in the container through LXD, without its sshd or network.
 * @returns its exit status @throws UserError `not-registered`, `not-running`, `node-unavailable`
 */
export async function openShell(parts: Parts, user: User, node: NodeConfig, request: ShellRequest): Promise<number> {
  parts.records.need(user, node.name)
  const lxd = parts.lxdFor(node)
  const cannotRun = blame(node, 'not-running', `See: ssh ${node.name}-manage status`)
  const instance = await findContainer(lxd, node, user)
  if (instance?.status_code !== STATUS.running) {
    throw new UserError('not-running', undefined, { hint: `Start it with: ssh ${node.name}-manage` })
  }
  const { terminal, stdin, stdout, stderr, gone } = request
  try {
    const { exitCode } = await exec(lxd, user.name, {
      command: commandLine(request),
      environment: { TERM: terminal?.term ?? 'dumb', HOME: '/root', USER: 'root', LANG: 'C.UTF-8' },
      cwd: '/root',
      stdin,
      stdout,
      stderr,
      terminal,
      onSignal: listener => request.onSignal(listener),
      signal: gone
    })
    return exitCode
  } catch (error) {
    // Nobody is there to be told any more.
    if (gone.aborted) return 255
    return cannotRun(error)
  }
}

/** Root needs nothing of the container but a shell: PAM, su and bash may all be broken. */
function commandLine({ loginUser, command }: ShellRequest): string[] {
  if (loginUser !== 'root')
    return ['su', '-l', loginUser, ...(command ? ['-c', 'exec "$@"', '--', 'sh', ...command] : [])]
  return command
    ? [...command]
    : ['/bin/sh', '-c', 'if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi']
}
