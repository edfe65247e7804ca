import type { WebSocket } from 'ws'
import { z } from 'zod'
import { apiPath } from './api-path.ts'
import type { LxdClient } from './client.ts'
import { operationSchema, readProgress, type OnProgress } from './operation.ts'

const eventSchema = z.looseObject({
  type: z.string(),
  timestamp: z.string().optional(),
  project: z.string().optional(),
  metadata: z.unknown()
})
export type LxdEvent = z.output<typeof eventSchema>

/**
 * Listens until the signal aborts (GET /1.0/events, a websocket). Events of a client without a project are those of all projects.
 * @returns when the server, the network or the signal has ended the stream; events in between are gone, so look again
 * @throws LxdError when it cannot be opened
 */
export async function followEvents(
  lxd: LxdClient,
  type: 'operation' | 'lifecycle',
  onEvent: (event: LxdEvent) => void,
  signal: AbortSignal
): Promise<void> {
  const query = { type, ...(lxd.project === undefined && { 'all-projects': true }) }
  const socket = await lxd.openWebSocket(apiPath`/1.0/events`, { query, signal })
  await new Promise<void>(resolve => {
    const stop = () => socket.terminate()
    signal.addEventListener('abort', stop, { once: true })
    socket.on('message', data => {
      const event = parseEvent(data)
      if (event !== undefined && !signal.aborted) onEvent(event)
    })
    socket.once('close', () => {
      signal.removeEventListener('abort', stop)
      resolve()
    })
    if (signal.aborted) stop()
    socket.resume()
  })
}

/** Tells an operation's progress while the signal lasts. Only a courtesy: without events the wait still ends rightly. */
export function watchProgress(lxd: LxdClient, id: string, onProgress: OnProgress, signal: AbortSignal): void {
  const onEvent = (event: LxdEvent) => {
    const operation = operationSchema.safeParse(event.metadata)
    const progress = operation.success && operation.data.id === id && readProgress(operation.data.metadata)
    if (progress) onProgress(...progress)
  }
  followEvents(lxd, 'operation', onEvent, signal).catch(() => {})
}

function parseEvent(data: WebSocket.RawData): LxdEvent | undefined {
  try {
    const parsed = eventSchema.safeParse(JSON.parse(String(data)))
    return parsed.success ? parsed.data : undefined
  } catch {
    return undefined
  }
}
