import { X509Certificate } from 'node:crypto'
import { connect } from 'node:tls'
import { z } from 'zod'
import { apiPath } from './api-path.ts'
import type { LxdClient } from './client.ts'
import { LxdError } from './lxd-error.ts'
import { getServer } from './server.ts'

const tokenSchema = z.looseObject({
  fingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  addresses: z.array(z.string()),
  secret: z.string()
})
/** What `lxc config trust add` prints: base64 of JSON. `fingerprint` is the SHA-256 of the server's certificate, in hex. */
export type TrustToken = z.output<typeof tokenSchema>

/** Reads a trust token; undefined when the text is none. */
export function parseTrustToken(token: string): TrustToken | undefined {
  try {
    return tokenSchema.parse(JSON.parse(Buffer.from(token.trim(), 'base64').toString()))
  } catch {
    return undefined
  }
}

/**
 * The certificate a server shows, believed by nobody yet: compare its fingerprint with a token's, or show it to the admin.
 * @returns PEM, and the SHA-256 in hex as LXD prints it @throws LxdError `unreachable`
 */
export function fetchServerCertificate(
  url: string,
  timeoutMs = 2500
): Promise<{ certificate: string; fingerprint: string }> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const fail = (cause: Error) => reject(new LxdError('unreachable', `${url}: ${cause.message}`, { cause }))
    const socket = connect({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || 8443),
      rejectUnauthorized: false
    })
    socket.setTimeout(timeoutMs, () => socket.destroy(new Error('no connection in time')))
    socket.on('error', fail)
    socket.once('secureConnect', () => {
      const certificate = socket.getPeerX509Certificate()
      socket.end()
      if (certificate === undefined) fail(new Error('no certificate shown'))
      else resolve({ certificate: certificate.toString(), fingerprint: fingerprintOf(certificate.toString()) })
    })
  })
}

/** SHA-256 of a PEM certificate in hex, as LXD prints it. */
export function fingerprintOf(certificate: string): string {
  return new X509Certificate(certificate).fingerprint256.replaceAll(':', '').toLowerCase()
}

/**
 * POST /1.0/certificates by the client itself: has the server trust the certificate this connection shows.
 * @param token from `lxc config trust add`, or the trust password of an LXD that has one @throws LxdError 403 when it is wrong
 */
export async function joinTrust(lxd: LxdClient, name: string, token: string): Promise<void> {
  const { extensions } = await getServer(lxd)
  // Incus knows only `trust_token`, LXD before that extension only `password`; each ignores the other.
  const secret = { trust_token: token, ...(!extensions.has('explicit_trust_token') && { password: token }) }
  await lxd.operate('POST', apiPath`/1.0/certificates`, { json: { type: 'client', name, ...secret } })
}
