import swagger from '@fastify/swagger'
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyRequest,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault
} from 'fastify'
import {
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider
} from 'fastify-type-provider-zod'
import type { Scope } from '../directory/access-tokens.ts'
import { UserError } from '../errors.ts'
import { addAdminApi } from './api-admin.ts'
import { addDocs } from './api-docs.ts'
import { addMemberApi } from './api-member.ts'
import type { KeyChanges } from './key-changes.ts'
import { needAdmin, needUser, type SiteParts } from './site.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What an access token must be allowed to be good for this route of the API. */
    scope?: Scope
    /** For everybody. */
    isOpen?: boolean
  }
}

export interface ApiParts extends SiteParts {
  readonly keyChanges: KeyChanges
}

/** The API's routes take and give what their zod schemas say; OpenAPI is made of the same. */
export type Api = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>

/** /api/v1: the same data as on the pages, as JSON, for sessions and access tokens; described at /api/docs. */
export async function addApi(app: FastifyInstance, parts: SiteParts, keyChanges: KeyChanges): Promise<void> {
  await app.register(async scope => {
    scope.setValidatorCompiler(validatorCompiler)
    scope.setSerializerCompiler(serializerCompiler)
    await scope.register(swagger, {
      openapi: {
        openapi: '3.1.0',
        info: {
          title: 'berth',
          version: '1',
          description:
            'Your keys, client configuration and containers as JSON. Authenticate with a personal access token made on the page “API access”: `Authorization: Bearer berth_pat_…`. A browser session works too; what changes something then needs the header `x-csrf-token` with the value that GET /api/v1/me tells.'
        },
        components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
        security: [{ token: [] }]
      },
      transform: jsonSchemaTransform
    })
    // Before anything is read of what was sent: strangers learn nothing, not even what would be valid.
    scope.addHook('onRequest', async request => authorize(request))
    const api: Api = scope.withTypeProvider<ZodTypeProvider>()
    addMemberApi(api, { ...parts, keyChanges })
    addAdminApi(api, parts)
    addDocs(scope, parts)
  })
}

/** Closed unless the route says what it needs. */
function authorize(request: FastifyRequest): void {
  const { config } = request.routeOptions
  if (config.isOpen) return
  const needed = config.scope ?? 'admin'
  if (needed === 'admin') needAdmin(request)
  else needUser(request)
  const { scopes } = request.visitor
  if (scopes && !scopes.includes(needed)) {
    throw new UserError('not-allowed', `The access token lacks the scope ${needed}.`, { hint: 'Make one that has it.' })
  }
}
