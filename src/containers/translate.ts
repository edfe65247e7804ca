import { UserError, type Reason } from '../errors.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import type { NodeConfig } from '../config.ts'

/** An LXD that takes connections and does not answer counts as absent: the member must know within 5 s. */
export const ANSWER_TIMEOUT_MS = 4000

const SILENT: ReadonlySet<string> = new Set(['unreachable', 'lost', 'timed-out'])

export function isNodeSilent(error: unknown): error is LxdError {
  return error instanceof LxdError && SILENT.has(error.fault)
}

/** For `.catch`: a silent LXD is the node's fault; any other refusal of LXD is `reason`, with LXD's own words as details. */
export function blame(node: NodeConfig, reason: Reason, hint: string): (error: unknown) => never {
  return error => {
    if (isNodeSilent(error)) throw nodeUnavailable(node, error)
    if (!(error instanceof LxdError)) throw error
    throw new UserError(reason, `${node.name}: ${error.message}`, { hint, cause: error })
  }
}

function nodeUnavailable(node: NodeConfig, cause: LxdError): UserError {
  return new UserError('node-unavailable', `LXD on ${node.name} is not to be reached.`, {
    hint: `Try again in a minute. If it stays so, tell your admin, who finds the fault with: berth node check ${node.name}`,
    cause
  })
}

export const tellAdmin = (node: NodeConfig): string =>
  `Please tell your admin, who finds the fault with: berth node check ${node.name}`
