import { LxdError } from './lxd-error.ts'

export interface Deadline extends Disposable {
  readonly signal: AbortSignal
  abort(reason: unknown): void
}

/** A signal that aborts with `signal`'s reason, or after `timeoutMs` with an LxdError `timed-out` that says `what` took so long. */
export function startDeadline(what: string, signal: AbortSignal | undefined, timeoutMs: number | undefined): Deadline {
  const controller = new AbortController()
  const follow = () => controller.abort(signal?.reason)
  if (signal?.aborted) follow()
  else signal?.addEventListener('abort', follow, { once: true })
  const expire = () => controller.abort(new LxdError('timed-out', `${what}: no end after ${timeoutMs} ms`))
  const timer = timeoutMs === undefined || timeoutMs === Infinity ? undefined : setTimeout(expire, timeoutMs)
  return {
    signal: controller.signal,
    abort: reason => controller.abort(reason),
    [Symbol.dispose]() {
      clearTimeout(timer)
      signal?.removeEventListener('abort', follow)
    }
  }
}

/** Resolves as `promise` does, or rejects at once with the signal's reason. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}

export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, ms)
  return abortable(promise, signal).finally(() => clearTimeout(timer))
}
