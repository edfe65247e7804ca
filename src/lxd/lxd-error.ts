/**
 * What went wrong between us and LXD:
 * `unreachable` nothing was sent, or what was sent went no further; `lost` the connection broke, so the outcome is unknown; `timed-out` our own time limit;
 * `refused` LXD answered with an HTTP error; `failed`/`cancelled` an operation ended so; `not-understood` an answer of
 * unexpected shape; `too-much` more data than the caller allowed.
 */
export type LxdFault =
  'unreachable' | 'lost' | 'timed-out' | 'refused' | 'failed' | 'cancelled' | 'not-understood' | 'too-much'

interface Extra {
  status?: number
  operation?: string
  cause?: unknown
}

/** A failure of a call to LXD. Decide by `fault` and `status`; the message is LXD's own text, for people. */
export class LxdError extends Error {
  readonly fault: LxdFault
  /** HTTP status, or the operation's status code (400 failed, 401 cancelled); 0 when there was no answer. */
  readonly status: number
  /** Id of the operation that failed, or whose end is unknown. */
  readonly operation: string | undefined

  constructor(fault: LxdFault, message: string, { status = 0, operation, cause }: Extra = {}) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'LxdError'
    this.fault = fault
    this.status = status
    this.operation = operation
  }
}

/** Is this LXD saying that the thing asked for does not exist? */
export function isNotFound(error: unknown): boolean {
  return error instanceof LxdError && error.fault === 'refused' && error.status === 404
}
