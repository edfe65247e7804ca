import { connect, isIP, type Socket } from 'node:net'
import { connect as connectSecurely, type ConnectionOptions } from 'node:tls'
import {
  Client,
  ConstraintViolationError,
  type Entry,
  type Filter,
  InappropriateAuthError,
  InvalidCredentialsError,
  InvalidDNSyntaxError,
  NoSuchObjectError,
  UnwillingToPerformError
} from 'ldapts'
import { UserError } from '../errors.ts'

export interface LdapServer {
  /** `ldaps://host`, or `ldap://host`. */
  readonly url: string
  readonly startTls: boolean
  /** PEM of the authorities to trust; undefined: those Node brings. */
  readonly ca: string | undefined
  /** For connecting, and for each answer. */
  readonly timeoutMs: number
}

/** What a server says to a bind it refuses for the name's or the password's sake (RFC 4511 section 4.1.9). */
const REFUSALS = [
  InvalidCredentialsError,
  InvalidDNSyntaxError,
  NoSuchObjectError,
  InappropriateAuthError,
  UnwillingToPerformError,
  ConstraintViolationError
]

/** Active Directory's words for a right password that is to be changed before anything else, 532 and 773 (MS-ADTS 5.1.1.1.3). */
const STALE_PASSWORD = /\bdata (532|773)\b/

/** `stale`: the password is right, and the directory wants another one before it lets anybody in. */
export type BindOutcome = 'bound' | 'refused' | 'stale'

/** One connection to the lab's directory, and never another one in its place. */
export class LdapConnection implements AsyncDisposable {
  readonly #client: Client

  private constructor(client: Client) {
    this.#client = client
  }

  /** Connects, with TLS as told. @throws UserError `directory-unavailable` */
  static async open({ url, startTls, ca, timeoutMs }: LdapServer): Promise<LdapConnection> {
    const tls = tlsOptions(new URL(url).hostname.replace(/^\[|\]$/g, ''), ca)
    let socket: Socket | undefined
    // ldapts connects anew when a connection was lost, after startTls in the clear, and would send the password there.
    const keepOnly = <T extends Socket>(make: () => T): T => {
      if (socket) throw new Error('the connection was lost')
      const made = make()
      socket = made
      return made
    }
    const client = new Client({
      url,
      timeout: timeoutMs,
      connectTimeout: timeoutMs,
      ...(url.startsWith('ldaps:') && { tlsOptions: tls }),
      createConnection: ((port: number, host: string) => keepOnly(() => connect(port, host))) as typeof connect,
      createSecureConnection: ((...args: [number, string, ConnectionOptions] | [ConnectionOptions]) =>
        args.length === 1
          ? connectSecurely(args[0])
          : keepOnly(() => connectSecurely(...args))) as typeof connectSecurely
    })
    const connection = new LdapConnection(client)
    if (!startTls) return connection
    // The handshake has no time limit of its own in ldapts.
    const deadline = setTimeout(() => socket?.destroy(), timeoutMs)
    try {
      await client.startTLS(tls)
      return connection
    } catch (error) {
      socket?.destroy()
      throw unavailable(error)
    } finally {
      clearTimeout(deadline)
    }
  }

  /** A simple bind (RFC 4513 section 5.1.3). @throws UserError `directory-unavailable` */
  async bind(dn: string, password: string): Promise<BindOutcome> {
    // Without a password it would be an unauthenticated bind, which succeeds for everybody (RFC 4513 section 5.1.2).
    if (dn === '' || password === '') return 'refused'
    try {
      await this.#client.bind(dn, password)
      return 'bound'
    } catch (error) {
      if (error instanceof InvalidCredentialsError && STALE_PASSWORD.test(error.message)) return 'stale'
      if (REFUSALS.some(kind => error instanceof kind)) return 'refused'
      throw unavailable(error)
    }
  }

  /** @returns the entries; none where `base` does not exist @throws UserError `directory-unavailable` */
  async search(base: string, scope: 'base' | 'sub', filter: Filter, attributes: string[]): Promise<Entry[]> {
    try {
      const found = await this.#client.search(base, {
        scope,
        filter,
        attributes,
        sizeLimit: 2,
        explicitBufferAttributes: ['objectGUID']
      })
      return found.searchEntries
    } catch (error) {
      if (error instanceof NoSuchObjectError) return []
      throw unavailable(error)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.unbind().catch(() => {})
  }
}

function tlsOptions(host: string, ca: string | undefined): ConnectionOptions {
  // `host` is what the certificate is held against; `servername` is sent, and must not be an address (RFC 6066 section 3).
  return { host, minVersion: 'TLSv1.2', ...(isIP(host) === 0 && { servername: host }), ...(ca !== undefined && { ca }) }
}

function unavailable(cause: unknown): UserError {
  return new UserError('directory-unavailable', undefined, {
    hint: 'Whoever has a key enrolled needs it for nothing: ssh works as ever. Try again in a few minutes, or ask your admin.',
    cause
  })
}
