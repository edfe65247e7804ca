import { z } from 'zod'
import { dictOf, listOf } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'
import { LxdError } from './lxd-error.ts'
import { isFinal, operationSchema, type Operation } from './operation.ts'
import { awaitEnd } from './wait.ts'

const listSchema = dictOf(listOf(operationSchema.extend({ resources: dictOf(listOf(z.string())) })))

/** GET /1.0/operations?recursion=1: those of the client's project that have not ended and concern one of these instances. */
async function findOperations(
  lxd: LxdClient,
  instances: readonly string[],
  options?: CallOptions
): Promise<Operation[]> {
  const byStatus = await lxd.get(apiPath`/1.0/operations`, listSchema, { ...options, query: { recursion: 1 } })
  return Object.values(byStatus)
    .flat()
    .filter(operation => !isFinal(operation))
    .filter(({ resources }) => (resources['instances'] ?? []).some(url => instances.includes(nameIn(url))))
}

/** `/1.0/instances/alice?project=berth` → `alice` */
const nameIn = (url: string): string => decodeURIComponent(new URL(url, 'http://lxd').pathname.split('/').at(3) ?? '')

/**
 * Waits until LXD is through with all it has begun on these instances, whoever asked for it and however it ends.
 * @throws LxdError when LXD does not answer
 */
export async function awaitOperationsOn(
  lxd: LxdClient,
  instances: readonly string[],
  options?: CallOptions
): Promise<void> {
  for (;;) {
    const running = await findOperations(lxd, instances, options)
    if (running.length === 0) return
    await Promise.all(
      running.map(operation =>
        awaitEnd(lxd, operation, { timeoutMs: Infinity, ...options }).catch((error: unknown) => {
          // It ended between the two questions: LXD knows it no more.
          if (!(error instanceof LxdError && error.fault === 'lost' && error.status === 404)) throw error
        })
      )
    )
  }
}
