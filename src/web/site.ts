import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Audit } from '../command/audit.ts'
import type { Config, NodeConfig } from '../config.ts'
import type { Containers } from '../containers/containers.ts'
import type { Members } from '../containers/members.ts'
import type { AccessTokens, Scope } from '../directory/access-tokens.ts'
import type { DomainAccounts } from '../directory/domain-accounts.ts'
import type { Invites } from '../directory/invites.ts'
import type { Keys } from '../directory/keys.ts'
import type { PasswordSignIn } from '../directory/ldap.ts'
import type { SignInLinks } from '../directory/sign-in-links.ts'
import type { User, Users } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { LxdClient } from '../lxd/client.ts'
import type { SnapshotRecords } from '../snapshots/snapshot-records.ts'
import type { Language } from './language.ts'
import type { Pages } from './pages.ts'
import type { Sessions } from './sessions.ts'
import type { Values } from './template.ts'

/** What the web pages are made of. */
export interface SiteParts extends WebServerParts {
  readonly pages: Pages
}

export interface WebServerParts {
  readonly listen: { readonly host: string; readonly port: number }
  readonly config: Config
  readonly users: Users
  readonly keys: Keys
  readonly invites: Invites
  readonly links: SignInLinks
  /** Undefined without a directory in berth.yaml. */
  readonly passwords: PasswordSignIn | undefined
  /** What the directory says of users. */
  readonly accounts: DomainAccounts
  readonly accessTokens: AccessTokens
  readonly sessions: Sessions
  readonly containers: Containers
  readonly snapshots: Pick<SnapshotRecords, 'listFor'>
  readonly members: Members
  readonly audit: Audit
  /** Public host key of the manage endpoints. */
  readonly hostPublicKey: string
  readonly log: Log
  lxdFor(node: NodeConfig): LxdClient
}

/** Who stands before the page. */
interface Visitor {
  readonly language: Language
  readonly user: User | undefined
  readonly isAdmin: boolean
  /** What the access token allows that was shown instead of a session. */
  readonly scopes: readonly Scope[] | undefined
}

declare module 'fastify' {
  interface FastifyRequest {
    visitor: Visitor
  }
  interface FastifyReply {
    /** Sends a page of templates/web within the common layout. */
    page(name: string, values?: Values): FastifyReply
  }
}

/** @throws UserError `signed-out` */
export function needUser({ visitor }: FastifyRequest): User {
  if (!visitor.user) throw new UserError('signed-out', undefined, { hint: 'Sign in first.' })
  return visitor.user
}

/** @throws UserError `signed-out`, `not-allowed` */
export function needAdmin(request: FastifyRequest): User {
  const user = needUser(request)
  if (!request.visitor.isAdmin) throw new UserError('not-allowed', 'This is for admins.', { hint: 'Ask your admin.' })
  return user
}

/** @throws UserError `unknown-node` */
export function needNode({ nodes }: Config, name: string): NodeConfig {
  const node = nodes.get(name)
  if (!node) throw new UserError('unknown-node', undefined, { hint: 'Go back to the list.' })
  return node
}

/** After a form has done its work: a reload must not send it again (RFC 9110 section 15.4.4). */
export const seeOther = (reply: FastifyReply, path: string): FastifyReply => reply.redirect(path, 303)
