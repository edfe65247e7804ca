import { createHash, createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto'
import { UserError } from '../errors.ts'
import { WireReader } from './wire.ts'

/** An SSH public key (RFC 4253 section 6.6, RFC 5656, RFC 8709, OpenSSH's PROTOCOL.u2f). */
export interface PublicKey {
  readonly type: string
  readonly bits: number
  /** `SHA256:…`, as `ssh-keygen -l` prints it. */
  readonly fingerprint: string
  /** The key as it travels in the protocol, type name included. */
  readonly blob: Buffer
  readonly comment: string
}

export const CURVES = {
  'ecdsa-sha2-nistp256': { wireName: 'nistp256', name: 'P-256', sizeBytes: 32, hash: 'sha256', bits: 256 },
  'ecdsa-sha2-nistp384': { wireName: 'nistp384', name: 'P-384', sizeBytes: 48, hash: 'sha384', bits: 384 },
  'ecdsa-sha2-nistp521': { wireName: 'nistp521', name: 'P-521', sizeBytes: 66, hash: 'sha512', bits: 521 }
} as const

const SK_ED25519 = 'sk-ssh-ed25519@openssh.com'
const SK_ECDSA = 'sk-ecdsa-sha2-nistp256@openssh.com'
const KEY_TYPES = new Set(['ssh-ed25519', ...Object.keys(CURVES), 'ssh-rsa', SK_ED25519, SK_ECDSA])
const TAKEN = 'berth takes Ed25519, ECDSA, RSA of 2048 bits or more, and the hardware kinds (sk-) of the first two.'
const MAKE_ONE = 'Make a new one with: ssh-keygen -t ed25519'
const MAX_COMMENT_LENGTH = 200

/** What a signature is checked against; `application` is the relying party of a hardware key. */
export interface KeyMaterial {
  readonly key: KeyObject
  readonly bits: number
  readonly application: Buffer | undefined
}

/**
 * One line of a `.pub` file: type, base64, comment.
 * @throws UserError `bad-key` that says what is wrong with it
 */
export function parsePublicKey(line: string): PublicKey {
  const text = line.trim()
  refuseOtherFormats(text)
  const [type = '', base64 = '', ...comment] = text.split(/[ \t]+/)
  if (type.endsWith('-cert-v01@openssh.com')) {
    throw badKey('It is a certificate.', 'Give the plain public key, the .pub file without -cert.')
  }
  if (type === 'ssh-dss') throw badKey('DSA keys are broken.', MAKE_ONE)
  if (!KEY_TYPES.has(type)) {
    throw new RegExp(`(^|\\s)(${[...KEY_TYPES].join('|')})\\s+AAAA`).test(text)
      ? badKey('It has options in front of the key.', 'Give the part from the key type on.')
      : badKey(`${quote(type)} is no known key type.`, TAKEN)
  }
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) throw badKey('Its middle part is not base64.', 'Copy the whole line.')
  const key = publicKeyFromBlob(Buffer.from(base64, 'base64'), comment.join(' '))
  if (key.type !== type) throw badKey(`It says ${type} and holds ${quote(key.type)}.`, 'Copy the whole line.')
  return key
}

/** @throws UserError `bad-key` */
export function publicKeyFromBlob(blob: Buffer, comment = ''): PublicKey {
  const reader = new WireReader(blob)
  const type = readOrRefuse(() => reader.text())
  const { bits } = readKeyMaterial(type, reader)
  if (reader.left > 0) throw badKey('It has extra bytes at its end.', 'Copy the whole line, and nothing else.')
  return { type, bits, fingerprint: fingerprintOf(blob), blob: Buffer.from(blob), comment: cleanComment(comment) }
}

/** One line, as in a `.pub` file. */
export function formatPublicKey({ type, blob, comment }: PublicKey): string {
  return `${type} ${blob.toString('base64')} ${cleanComment(comment)}`.trimEnd()
}

/**
 * The fields that follow the type name in a key or, after its nonce, in a certificate.
 * @throws UserError `bad-key`: unknown type, truncated, too weak, or no valid point or number
 */
export function readKeyMaterial(type: string, reader: WireReader): KeyMaterial {
  return readOrRefuse(() => {
    switch (type) {
      case 'ssh-ed25519':
        return { key: ed25519(reader.string()), bits: 256, application: undefined }
      case SK_ED25519:
        return { key: ed25519(reader.string()), bits: 256, application: reader.string() }
      case SK_ECDSA:
        return { key: ecdsa('ecdsa-sha2-nistp256', reader), bits: 256, application: reader.string() }
      case 'ssh-rsa':
        return { ...rsa(reader), application: undefined }
      default:
        if (!isCurve(type)) throw badKey(`${quote(type)} is no known key type.`, TAKEN)
        return { key: ecdsa(type, reader), bits: CURVES[type].bits, application: undefined }
    }
  })
}

export const isCurve = (type: string): type is keyof typeof CURVES => Object.hasOwn(CURVES, type)

/** `SHA256:…` of any bytes, a valid key or not. */
export const fingerprintOf = (blob: Buffer): string =>
  `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`

function ed25519(bytes: Buffer): KeyObject {
  if (bytes.length !== 32) throw new RangeError('not 32 bytes')
  return importKey({ kty: 'OKP', crv: 'Ed25519', x: bytes.toString('base64url') })
}

function ecdsa(type: keyof typeof CURVES, reader: WireReader): KeyObject {
  const { wireName, name, sizeBytes } = CURVES[type]
  if (reader.text() !== wireName) throw new RangeError('not the curve of its type')
  const point = reader.string()
  if (point.length !== 1 + 2 * sizeBytes || point[0] !== 4) throw new RangeError('not an uncompressed point')
  const x = point.subarray(1, 1 + sizeBytes).toString('base64url')
  return importKey({ kty: 'EC', crv: name, x, y: point.subarray(1 + sizeBytes).toString('base64url') })
}

function rsa(reader: WireReader): { key: KeyObject; bits: number } {
  const exponent = reader.unsigned()
  const modulus = reader.unsigned()
  const bits = modulus.length === 0 ? 0 : modulus.length * 8 - Math.clz32(modulus[0] as number) + 24
  if (bits < 2048) throw badKey(`It is an RSA key of ${bits} bits; 2048 is the least.`, MAKE_ONE)
  // Every login costs one exponentiation: a huge exponent or modulus would stop the process for seconds.
  if (bits > 16384 || exponent.length > 4) throw badKey('Its RSA numbers are unusually large.', MAKE_ONE)
  const key = importKey({ kty: 'RSA', n: modulus.toString('base64url'), e: exponent.toString('base64url') })
  return { key, bits }
}

/** OpenSSL checks here that a point lies on its curve. */
const importKey = (key: JsonWebKey): KeyObject => createPublicKey({ key, format: 'jwk' })

function readOrRefuse<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof UserError) throw error
    throw badKey('It is truncated or damaged.', 'Copy the whole line.', error)
  }
}

function refuseOtherFormats(text: string): void {
  if (text === '') throw badKey('It is empty.', 'Give the content of a .pub file.')
  if (/^-----BEGIN [A-Z ]*PRIVATE KEY-----|^PuTTY-User-Key-File/.test(text)) {
    throw badKey(
      'It is the private key, which must never leave your machine: make a new pair.',
      'Then give the content of the .pub file.'
    )
  }
  if (text.startsWith('---- BEGIN SSH2 PUBLIC KEY ----')) {
    throw badKey('It is in the format of RFC 4716.', 'Convert it with: ssh-keygen -i -f FILE')
  }
  if (/[\r\n]/.test(text)) throw badKey('It is more than one line.', 'Give one key, on one line.')
}

const badKey = (details: string, hint: string, cause?: unknown): UserError =>
  new UserError('bad-key', details, { hint, cause })

/** Comments end up in files and on screens: one line, printable, of bounded length. */
const cleanComment = (comment: string): string =>
  comment
    .replaceAll(/[\p{C}\p{Z}]+/gu, ' ')
    .trim()
    .slice(0, MAX_COMMENT_LENGTH)

const quote = (text: string): string => JSON.stringify(text.slice(0, 60))
