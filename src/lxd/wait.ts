import { apiPath } from './api-path.ts'
import type { LxdClient } from './client.ts'
import { sleep, startDeadline } from './deadline.ts'
import { watchProgress } from './events.ts'
import { isNotFound, LxdError, type LxdFault } from './lxd-error.ts'
import { isFinal, operationSchema, type OnProgress, type Operation } from './operation.ts'

export interface WaitOptions {
  readonly signal?: AbortSignal | undefined
  /** For the whole operation; 15 minutes when left out, `Infinity` for none. */
  readonly timeoutMs?: number | undefined
  readonly onProgress?: OnProgress | undefined
  /** When our waiting ends early, ask LXD to cancel the operation too; otherwise it goes on without us. */
  readonly cancelOnAbort?: boolean | undefined
}

const OPERATION_TIMEOUT_MS = 15 * 60_000
const POLL_S = 20
// LXD forgets an operation some seconds after its end, and all of them when it restarts: longer outages leave nothing to find.
const PATIENCE_MS = 4000
const PASSING: ReadonlySet<LxdFault> = new Set(['unreachable', 'lost', 'timed-out'])
const RETRY_DELAY_MS = 250
const CANCEL_TIMEOUT_MS = 3000

/**
 * As `awaitEnd`, for operations that have to succeed.
 * @throws LxdError `failed` or `cancelled` with LXD's reason too
 */
export async function waitForOperation(lxd: LxdClient, begun: Operation, options?: WaitOptions): Promise<Operation> {
  return checkOutcome(await awaitEnd(lxd, begun, options))
}

/**
 * Waits until an operation has ended, however it did (GET /1.0/operations/ID/wait), across broken connections.
 * @throws LxdError `lost` when LXD no longer knows it, `timed-out`; the signal's reason
 */
export async function awaitEnd(lxd: LxdClient, begun: Operation, options: WaitOptions = {}): Promise<Operation> {
  const { onProgress, cancelOnAbort = false, timeoutMs = OPERATION_TIMEOUT_MS } = options
  using deadline = startDeadline(begun.description || `operation ${begun.id}`, options.signal, timeoutMs)
  const watching = new AbortController()
  if (onProgress !== undefined && !isFinal(begun)) watchProgress(lxd, begun.id, onProgress, watching.signal)
  try {
    return await pollUntilFinal(lxd, begun, deadline.signal)
  } catch (error) {
    if (cancelOnAbort && deadline.signal.aborted) await cancelOperation(lxd, begun.id)
    throw error
  } finally {
    watching.abort()
  }
}

/** Asks LXD to end an operation (DELETE /1.0/operations/ID); many kinds cannot be, which is not reported. */
async function cancelOperation(lxd: LxdClient, id: string): Promise<void> {
  await lxd
    .begin('DELETE', apiPath`/1.0/operations/${id}`, { answerTimeoutMs: CANCEL_TIMEOUT_MS })
    .catch((error: unknown) => {
      if (!(error instanceof LxdError)) throw error
    })
}

async function pollUntilFinal(lxd: LxdClient, begun: Operation, signal: AbortSignal): Promise<Operation> {
  let operation = begun
  let answeredAtMs = performance.now()
  while (!isFinal(operation)) {
    try {
      operation = await pollOnce(lxd, begun.id, signal)
      answeredAtMs = performance.now()
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof LxdError)) throw error
      const silentMs = performance.now() - answeredAtMs
      if (!PASSING.has(error.fault) || silentMs > PATIENCE_MS)
        throw new LxdError('lost', `the end of operation ${begun.id} is not known: ${error.message}`, {
          status: error.status,
          operation: begun.id,
          cause: error
        })
      await sleep(RETRY_DELAY_MS, signal)
    }
  }
  return operation
}

/** The operation, at its end or after POLL_S. */
async function pollOnce(lxd: LxdClient, id: string, signal: AbortSignal): Promise<Operation> {
  const askedAtMs = performance.now()
  const query = { timeout: POLL_S }
  const timeoutMs = (POLL_S + 10) * 1000
  try {
    return await lxd.get(apiPath`/1.0/operations/${id}/wait`, operationSchema, { query, timeoutMs, signal })
  } catch (error) {
    // Incus answers with an error both when the time is up and when the operation failed: only the operation itself tells which.
    if (!(error instanceof LxdError && error.fault === 'refused') || isNotFound(error)) throw error
  }
  const operation = await lxd.get(apiPath`/1.0/operations/${id}`, operationSchema, { signal })
  if (!isFinal(operation) && performance.now() - askedAtMs < RETRY_DELAY_MS) await sleep(RETRY_DELAY_MS, signal)
  return operation
}

/** @throws LxdError `failed` or `cancelled` unless the operation succeeded */
export function checkOutcome(operation: Operation): Operation {
  if (operation.status_code === 200) return operation
  const { id, err, status, status_code } = operation
  throw new LxdError(status_code === 401 ? 'cancelled' : 'failed', err || status, {
    status: status_code,
    operation: id
  })
}
