import type { FastifyInstance } from 'fastify'
import type { SiteParts } from './site.ts'

interface Operation {
  readonly summary?: string
  readonly description?: string
  readonly tags?: readonly string[]
  readonly parameters?: readonly { readonly name: string }[]
  readonly requestBody?: unknown
}

/** OpenAPI as JSON at /api/docs/json, and as a page to read at /api/docs. */
export function addDocs(api: FastifyInstance, { config, pages }: SiteParts): void {
  const open = { config: { isOpen: true }, schema: { hide: true } }
  const describe = () => api.swagger() as { paths: Record<string, Record<string, Operation>> }

  api.get('/api/docs/json', open, (_request, reply) => reply.send(JSON.stringify(describe())).type('application/json'))

  api.get('/api/docs', open, (request, reply) => {
    if (!request.headers.accept?.includes('text/html')) return reply.redirect('/api/docs/json', 302)
    const operations = Object.entries(describe().paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({
        path,
        method: method.toUpperCase(),
        summary: pages.say(`${operation.summary ?? ''}.`, request.visitor.language),
        scopeWord: `scope.${/Scope: (\w+)/.exec(operation.description ?? '')?.[1] ?? 'read'}`,
        isAdmin: operation.tags?.includes('admin') ?? false,
        parameters: (operation.parameters ?? []).map(({ name }) => ({ name })),
        hasBody: operation.requestBody !== undefined
      }))
    )
    return reply.page('api-docs', {
      member: operations.filter(({ isAdmin }) => !isAdmin),
      admin: operations.filter(({ isAdmin }) => isAdmin),
      address: config.web.publicUrl?.replace(/\/$/, '') ?? 'http://…'
    })
  })
}
