import { openAsBlob } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, FormData, request } from 'undici'
import { z } from 'zod'

const answerSchema = z.object({
  type: z.string(),
  operation: z.string().optional(),
  error: z.string().optional(),
  metadata: z.unknown()
})

const operationSchema = z.object({
  class: z.string(),
  status_code: z.number(),
  err: z.string(),
  metadata: z.unknown()
})

/** The few calls the lab itself makes of a server's REST API. The product's own client is what the tests try, so it is not used here. */
export interface Rest {
  /** One call; operations are awaited. Gives the answer's metadata, throws with the server's words on failure. */
  call(method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, body?: object | FormData): Promise<unknown>
  close(): Promise<void>
}

export function connectRest(socketPath: string): Rest {
  const dispatcher = new Agent({ connect: { socketPath } })
  const call: Rest['call'] = async (method, path, body) => {
    const response = await request(`http://lab${path}`, {
      method,
      dispatcher,
      body: body === undefined || body instanceof FormData ? (body ?? null) : JSON.stringify(body)
    })
    const answer = answerSchema.parse(await response.body.json())
    if (answer.type === 'error') throw new Error(`${method} ${path}: ${answer.error}`)
    if (answer.type !== 'async') return answer.metadata
    const begun = operationSchema.parse(answer.metadata)
    // An invitation stays open until somebody takes it.
    if (begun.class === 'token') return begun.metadata
    const operation = operationSchema.parse(await call('GET', `${answer.operation}/wait`))
    if (operation.status_code !== 200) throw new Error(`${method} ${path}: ${operation.err}`)
    return operation.metadata
  }
  return { call, close: () => dispatcher.destroy() }
}

/** Waits until the daemon answers on its socket; throws after a minute. */
export async function waitForServer(rest: Rest): Promise<void> {
  const deadlineMs = Date.now() + 60_000
  for (;;) {
    try {
      await rest.call('GET', '/1.0')
      return
    } catch (error) {
      if (Date.now() > deadlineMs) throw new Error('the daemon does not answer', { cause: error })
      await sleep(100)
    }
  }
}

export async function importImage(rest: Rest, alias: string, metadataPath: string, rootfsPath: string): Promise<void> {
  const form = new FormData()
  form.append('metadata', await openAsBlob(metadataPath), 'metadata.tar.gz')
  form.append('rootfs', await openAsBlob(rootfsPath), 'rootfs.squashfs')
  const { fingerprint } = z.object({ fingerprint: z.string() }).parse(await rest.call('POST', '/1.0/images', form))
  await rest.call('POST', '/1.0/images/aliases', { name: alias, target: fingerprint })
}
