import type { IncomingHttpHeaders } from 'node:http'
import type { Readable } from 'node:stream'
import { type FormData, request } from 'undici'
import { WebSocket } from 'ws'
import type { z } from 'zod'
import type { ApiPath } from './api-path.ts'
import { envelope, parseAnswer } from './answer.ts'
import { sleep, startDeadline } from './deadline.ts'
import { LxdError, isNotFound } from './lxd-error.ts'
import { type Operation, operationSchema } from './operation.ts'
import { Transport, type LxdEndpoint } from './transport.ts'
import { waitForOperation, type WaitOptions } from './wait.ts'

type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
/**
 * Of an iterable, each part of 64 KiB or more has been handed to the system before the next is asked for: its memory may be used
 * again. A smaller one may still wait in the socket's buffer.
 */
type Content = Uint8Array | AsyncIterable<Uint8Array> | FormData
type Query = Readonly<Record<string, string | number | boolean | undefined>>

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  /** For the whole call, answer included. */
  readonly timeoutMs?: number | undefined
  readonly query?: Query | undefined
}
export interface RawOptions extends CallOptions {
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly content?: Content | undefined
}
export interface ChangeOptions extends WaitOptions {
  readonly query?: Query | undefined
  readonly json?: unknown
  readonly content?: Content | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Refuses the change (412) when the thing is no longer as it was read. */
  readonly etag?: string | undefined
  /** For LXD's first answer; the wait for an operation has `timeoutMs`. */
  readonly answerTimeoutMs?: number | undefined
}

export interface RawAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

const READ_TIMEOUT_MS = 15_000
const CHANGE_TIMEOUT_MS = 120_000
const RETRY_DELAYS_MS = [100, 500]
const DOWNLOAD_SILENCE_MS = 60_000
const MAX_ANSWER_BYTES = 64 * 2 ** 20
const MAX_MESSAGE_BYTES = 16 * 2 ** 20

/**
 * One LXD or Incus server, seen from one project. Reads are repeated when the connection breaks; changes never are, since
 * nobody knows whether the first one arrived.
 */
export class LxdClient {
  readonly project: string | undefined
  readonly target: string | undefined
  /** With it another process can have a client like this one. */
  readonly endpoint: LxdEndpoint
  readonly #transport: Transport

  constructor(endpoint: LxdEndpoint, transport = new Transport(endpoint)) {
    this.endpoint = endpoint
    this.project = endpoint.project
    this.target = endpoint.target
    this.#transport = transport
  }

  /** The same server through the same connections, in another project. */
  inProject(project: string): LxdClient {
    return new LxdClient({ ...this.endpoint, project }, this.#transport)
  }

  get address(): string {
    return this.#transport.address
  }

  close(): Promise<void> {
    return this.#transport.close()
  }

  /** The `metadata` of a synchronous answer. @throws LxdError */
  async get<T extends z.ZodType>(path: ApiPath, schema: T, options?: CallOptions): Promise<z.output<T>> {
    return (await this.getWithEtag(path, schema, options)).value
  }

  async getWithEtag<T extends z.ZodType>(
    path: ApiPath,
    schema: T,
    options?: CallOptions
  ): Promise<{ value: z.output<T>; etag: string }> {
    const answer = await this.raw('GET', path, options)
    const { metadata } = parseEnvelope(answer, path)
    return { value: parseAnswer(schema, metadata, `GET ${path}`), etag: answer.headers['etag'] ?? '' }
  }

  /** As `get`, but undefined when LXD says there is no such thing (404). */
  async find<T extends z.ZodType>(path: ApiPath, schema: T, options?: CallOptions): Promise<z.output<T> | undefined> {
    return this.get(path, schema, options).catch(absentIfNotFound)
  }

  /**
   * Makes a change; where LXD makes an operation of it, waits for its end.
   * @returns the ended operation, or undefined when LXD answered at once
   * @throws LxdError; the signal's reason when aborted
   */
  async operate(
    method: Exclude<Method, 'GET' | 'HEAD'>,
    path: ApiPath,
    options: ChangeOptions = {}
  ): Promise<Operation | undefined> {
    const begun = await this.begin(method, path, options)
    return begun && waitForOperation(this, begun, options)
  }

  /** Makes a change without waiting for the operation LXD may make of it. */
  async begin(
    method: Exclude<Method, 'GET' | 'HEAD'>,
    path: ApiPath,
    options: ChangeOptions = {}
  ): Promise<Operation | undefined> {
    const { json, etag, query, signal, answerTimeoutMs } = options
    const answer = await this.raw(method, path, {
      signal,
      query,
      timeoutMs: answerTimeoutMs ?? CHANGE_TIMEOUT_MS,
      content: json === undefined ? options.content : Buffer.from(JSON.stringify(json)),
      headers: {
        ...(json !== undefined && { 'content-type': 'application/json' }),
        ...(etag !== undefined && { 'if-match': etag }),
        ...options.headers
      }
    })
    const { type, metadata } = parseEnvelope(answer, path)
    return type === 'async' ? parseAnswer(operationSchema, metadata, `${method} ${path}`) : undefined
  }

  /** One exchange, the answer's body read whole. Answers of 400 and above are thrown. @throws LxdError */
  async raw(method: Method, path: ApiPath, options: RawOptions & { maxBytes?: number } = {}): Promise<RawAnswer> {
    const idempotent = method === 'GET' || method === 'HEAD'
    using deadline = startDeadline(`${method} ${path}`, options.signal, options.timeoutMs ?? READ_TIMEOUT_MS)
    for (const delayMs of [...(idempotent ? RETRY_DELAYS_MS : []), undefined]) {
      try {
        return await this.#exchange(method, path, options, deadline.signal)
      } catch (error) {
        if (delayMs === undefined || !(error instanceof LxdError && error.fault === 'lost')) throw error
        await sleep(delayMs, deadline.signal)
      }
    }
    throw new Error('unreachable code')
  }

  async #exchange(
    method: Method,
    path: ApiPath,
    { query, headers, content, maxBytes = MAX_ANSWER_BYTES }: RawOptions & { maxBytes?: number },
    signal: AbortSignal
  ): Promise<RawAnswer> {
    try {
      const {
        statusCode,
        headers: answered,
        body
      } = await request(this.#transport.origin + this.#locate(path, query), {
        method,
        dispatcher: this.#transport.agent,
        signal,
        headersTimeout: 0,
        bodyTimeout: 0,
        headers: headers ?? {},
        // undici takes all iterables; its types know of streams alone.
        body: (content as Readable | undefined) ?? null
      })
      const chunks: Buffer[] = []
      let sizeBytes = 0
      for await (const chunk of body as AsyncIterable<Buffer>) {
        sizeBytes += chunk.length
        if (sizeBytes > maxBytes) throw new LxdError('too-much', `${method} ${path}: more than ${maxBytes} bytes`)
        chunks.push(chunk)
      }
      const answer = { status: statusCode, headers: answered, body: Buffer.concat(chunks) }
      if (statusCode >= 400) throw refusal(answer, `${method} ${path}`)
      return answer
    } catch (error) {
      if (error instanceof LxdError) throw error
      signal.throwIfAborted()
      throw new LxdError('lost', `${method} ${path}: ${(error as Error).message}`, { cause: error })
    }
  }

  /**
   * GET of something too big to be held: its bytes from `from` on, as they come. Fails when the connection breaks or is silent for a
   * minute while somebody reads. @throws LxdError
   */
  async *download(path: ApiPath, from: number): AsyncGenerator<Buffer, void> {
    try {
      const { statusCode, headers, body } = await request(this.#transport.origin + this.#locate(path), {
        dispatcher: this.#transport.agent,
        headersTimeout: DOWNLOAD_SILENCE_MS,
        bodyTimeout: DOWNLOAD_SILENCE_MS,
        headers: from === 0 ? {} : { range: `bytes=${from}-` }
      })
      if (statusCode >= 400)
        throw refusal({ status: statusCode, headers, body: Buffer.from(await body.arrayBuffer()) }, `GET ${path}`)
      if (statusCode !== (from === 0 ? 200 : 206)) {
        body.on('error', () => {}).destroy()
        throw new LxdError('not-understood', `GET ${path}: HTTP ${statusCode} for what begins at byte ${from}`)
      }
      yield* body as AsyncIterable<Buffer>
    } catch (error) {
      if (error instanceof LxdError) throw error
      throw new LxdError('lost', `GET ${path}: ${(error as Error).message}`, { cause: error })
    }
  }

  /** An open websocket. Messages begin at once, so listen before anything is awaited. @throws LxdError */
  async openWebSocket(path: ApiPath, options: CallOptions = {}): Promise<WebSocket> {
    using deadline = startDeadline(`websocket ${path}`, options.signal, options.timeoutMs ?? READ_TIMEOUT_MS)
    const socket = await this.#transport.connect()
    const url = this.#transport.origin.replace(/^https?/, 'ws') + this.#locate(path, options.query)
    const webSocket = new WebSocket(url, {
      createConnection: () => socket,
      perMessageDeflate: false,
      maxPayload: MAX_MESSAGE_BYTES
    })
    const { promise, resolve, reject } = Promise.withResolvers<WebSocket>()
    const stop = () => {
      reject(deadline.signal.reason)
      webSocket.terminate()
    }
    webSocket.once('open', () => {
      webSocket.pause()
      resolve(webSocket)
    })
    webSocket.once('unexpected-response', (_request, response) => {
      reject(
        new LxdError('refused', `websocket ${path}: ${response.statusMessage}`, { status: response.statusCode ?? 0 })
      )
      webSocket.terminate()
    })
    webSocket.on('error', cause => reject(new LxdError('lost', `websocket ${path}: ${cause.message}`, { cause })))
    deadline.signal.addEventListener('abort', stop, { once: true })
    if (deadline.signal.aborted) stop()
    return await promise
  }

  #locate(path: ApiPath, query: Query = {}): string {
    const parameters = new URLSearchParams()
    for (const [name, value] of Object.entries({ project: this.project, ...query }))
      if (value !== undefined) parameters.set(name, value)
    return parameters.size === 0 ? path : `${path}?${parameters.toString()}`
  }
}

/** For `.catch`: LXD's 404 becomes undefined. */
export function absentIfNotFound(error: unknown): undefined {
  if (!isNotFound(error)) throw error
}

/** @throws LxdError `refused` for an error that came with the status of a success, as Incus does for operations */
function parseEnvelope(answer: RawAnswer, what: string): z.output<typeof envelope> {
  const parsed = parseAnswer(envelope, parseJson(answer.body), what)
  if (parsed.type === 'error') throw refusal(answer, what)
  return parsed
}

/**
 * How a server says that it is starting or stopping (503), or that the member of the cluster for whom it was meant is away (500): the
 * status alone does not tell these from what is wrong with a call. As LXD 5.0.2 and Incus 6.0.4 have it; from the beginning, since
 * they also tell so of a third that was only to be notified.
 */
const NOT_SERVING =
  /^((lxd )?daemon setup in progress|(daemon|lxd|lxd daemon|incus) is (starting up|shutting down)|server isn't ready|missing event connection|(the |target )?(cluster member|node).* is offline)/i

function refusal({ status: httpStatus, body }: RawAnswer, what: string): LxdError {
  const { data } = envelope.safeParse(parseJson(body))
  const said = data?.error || `HTTP ${httpStatus}`
  const status = data?.error_code || httpStatus
  return new LxdError(status >= 500 && NOT_SERVING.test(said) ? 'unreachable' : 'refused', `${what}: ${said}`, {
    status
  })
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    return undefined
  }
}
