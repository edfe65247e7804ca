import type { FastifyRequest } from 'fastify'
import { maskWords, type Audit } from '../command/audit.ts'
import { toUserError } from '../errors.ts'

/** What was done in a browser or over the API is written down as what is typed at a manage endpoint. `words` begin with the verb. */
export async function audited<T>(
  audit: Audit,
  request: FastifyRequest,
  {
    words,
    node = '-',
    user = request.visitor.user?.name
  }: { words: string[]; node?: string; user?: string | undefined },
  work: () => Promise<T> | T
): Promise<T> {
  const close = audit.open({
    session: `web-${request.id}`,
    login: request.visitor.scopes ? 'api' : 'web',
    user,
    fingerprint: undefined,
    address: request.ip,
    node,
    words: maskWords(words, [])
  })
  try {
    const result = await work()
    close(0, undefined)
    return result
  } catch (error) {
    const { exitCode, reason } = toUserError(error, request.id)
    close(exitCode, reason)
    throw error
  }
}
