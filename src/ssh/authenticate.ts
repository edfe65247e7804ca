import type { Principal } from '../command/command.ts'
import { fingerprintOf, publicKeyFromBlob, type PublicKey } from '../directory/public-key.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { certificateFault, isCertificateType, plainType, readUserCertificate } from './user-certificate.ts'
import { isUserVerified, readLoginSignature, verifySignature } from './verify-signature.ts'

/** What authentication asks of the directory. */
export interface Directory {
  readonly keys: {
    find(fingerprint: string): (PublicKey & { readonly userId: number }) | undefined
    touch(fingerprint: string, address: string): void
  }
  readonly users: {
    find(name: string): User | undefined
    byId(id: number): User | undefined
  }
  readonly userCas: readonly PublicKey[]
}

/** One publickey request of RFC 4252 section 7. */
export interface Attempt {
  readonly login: string
  readonly address: string
  /** The algorithm name of the request, such as `rsa-sha2-256` or `ssh-ed25519-cert-v01@openssh.com`. */
  readonly algorithm: string
  readonly blob: Buffer
  /** Absent when the client only asks whether the key would do. */
  readonly proof: { readonly signature: Buffer; readonly data: Buffer } | undefined
}

export type Verdict =
  /** The signature is right: this is who it is. */
  | { readonly verdict: 'accepted'; readonly principal: Principal }
  /** A key without a signature: worth signing with, nothing more. */
  | { readonly verdict: 'would-do' }
  /** `fault` concerns the client's own key only and may be shown before anything is proven. */
  | { readonly verdict: 'refused'; readonly fault?: string }
  /** A right signature of somebody who may not come in: may be told so. */
  | { readonly verdict: 'disabled' }

interface Candidate {
  readonly key: PublicKey
  readonly user: User | undefined
  readonly role: Principal['role']
  readonly needsVerification: boolean
}

const SHA1_RSA = /^ssh-rsa(-cert-v01@openssh\.com)?$/

/**
 * Who stands behind a publickey request. Nothing but a verified signature ever yields a principal.
 * @throws only what the directory throws
 */
export function authenticate(attempt: Attempt, directory: Directory, nowMs: number): Verdict {
  try {
    if (SHA1_RSA.test(attempt.algorithm)) return { verdict: 'refused', fault: 'it would be used with SHA-1' }
    const candidate = isCertificateType(attempt.algorithm)
      ? findCertified(attempt, directory, nowMs)
      : findPlain(attempt, directory)
    if (!('key' in candidate)) return candidate
    const { key, user, role } = candidate
    if (!attempt.proof) return { verdict: 'would-do' }
    const signature = readLoginSignature(attempt.algorithm, attempt.proof.signature)
    if (!verifySignature(key, signature, attempt.proof.data)) return { verdict: 'refused' }
    if (candidate.needsVerification && !isUserVerified(signature))
      return { verdict: 'refused', fault: 'its certificate demands a PIN' }
    if (user?.state === 'disabled') return { verdict: 'disabled' }
    return { verdict: 'accepted', principal: { role, login: attempt.login, key, user } }
  } catch (error) {
    if (error instanceof UserError) return { verdict: 'refused', fault: error.details ?? error.message }
    if (isOddInput(error)) return { verdict: 'refused' }
    throw error
  }
}

/** Bytes that are no key, certificate or signature: found by WireReader, or by OpenSSL behind node:crypto. */
const isOddInput = (error: unknown): boolean =>
  error instanceof RangeError || /^ERR_(OSSL|CRYPTO|INVALID)/.test((error as NodeJS.ErrnoException).code ?? '')

function findPlain({ login, algorithm, blob }: Attempt, { keys, users }: Directory): Candidate | Verdict {
  const known = keys.find(fingerprintOf(blob))
  // One that is enrolled was examined then.
  const key = known ?? publicKeyFromBlob(blob)
  if (key.type !== (algorithm.startsWith('rsa-sha2-') ? 'ssh-rsa' : algorithm)) return { verdict: 'refused' }
  const user = known && users.byId(known.userId)
  const candidate = { key, user, needsVerification: false }
  if (login === 'enroll') return { ...candidate, role: 'enroll' }
  if (!user) return { verdict: 'refused' }
  if (login === 'register') return { ...candidate, role: 'register' }
  return user.name === login ? { ...candidate, role: 'member' } : { verdict: 'refused' }
}

function findCertified(attempt: Attempt, { users, userCas }: Directory, nowMs: number): Candidate | Verdict {
  const { login, address, blob, algorithm } = attempt
  if (userCas.length === 0) return { verdict: 'refused', fault: 'it is a certificate, and none are taken here' }
  const certificate = readUserCertificate(blob)
  const { key, criticalOptions } = certificate
  if (key.type !== plainType(algorithm.replace(/^rsa-sha2-(256|512)-/, 'ssh-rsa-'))) return { verdict: 'refused' }
  const fault = certificateFault(certificate, { login, address, authorities: userCas, nowMs })
  if (fault !== undefined) return { verdict: 'refused', fault }
  const user = users.find(login)
  if (!user) return { verdict: 'refused' }
  return { key, user, role: 'member', needsVerification: criticalOptions.has('verify-required') }
}
