import { createHash, verify } from 'node:crypto'
import { CURVES, isCurve, readKeyMaterial, type KeyMaterial, type PublicKey } from '../directory/public-key.ts'
import { WireReader } from '../directory/wire.ts'

/** A signature of RFC 4253 section 6.6, taken apart; `bytes` of ECDSA are DER. */
export interface Signature {
  readonly algorithm: string
  readonly bytes: Buffer
  /** What a hardware key adds (OpenSSH's PROTOCOL.u2f). */
  readonly touch: { readonly flags: number; readonly counter: number } | undefined
}

const RSA_HASHES: Readonly<Record<string, string>> = { 'rsa-sha2-256': 'sha256', 'rsa-sha2-512': 'sha512' }
const USER_PRESENT = 0x01
const USER_VERIFIED = 0x04

/** Whether the person gave a PIN or a finger to the hardware key, not only a touch. */
export const isUserVerified = ({ touch }: Signature): boolean => ((touch?.flags ?? 0) & USER_VERIFIED) !== 0

/** @throws RangeError when it is malformed */
export function readSignature(wire: Buffer): Signature {
  const reader = new WireReader(wire)
  const algorithm = reader.text()
  const body = reader.string()
  const touch = algorithm.startsWith('sk-') ? { flags: reader.byte(), counter: reader.uint32() } : undefined
  if (reader.left > 0) throw new RangeError('bytes after the signature')
  return { algorithm, bytes: algorithm.includes('ecdsa') ? toDer(body) : body, touch }
}

/**
 * Restores what ssh2 took off a login's signature: it drops the algorithm and the length where the algorithm is the one of the
 * request, and has turned plain ECDSA into DER. Certificates come whole, for their signature names the plain algorithm.
 * @throws RangeError when it is malformed
 */
export function readLoginSignature(algorithm: string, remains: Buffer): Signature {
  if (algorithm.includes('-cert-')) return readSignature(remains)
  if (!algorithm.startsWith('sk-')) return { algorithm, bytes: remains, touch: undefined }
  const end = Math.max(0, remains.length - 5)
  const reader = new WireReader(remains.subarray(end))
  const touch = { flags: reader.byte(), counter: reader.uint32() }
  const body = remains.subarray(0, end)
  return { algorithm, bytes: algorithm.includes('ecdsa') ? toDer(body) : body, touch }
}

/** True only for a signature by this key, with a hash of the SHA-2 family, and for hardware keys with a touch. */
export function verifySignature(key: PublicKey, signature: Signature, data: Buffer): boolean {
  const reader = new WireReader(key.blob)
  return verifyWith(reader.text(), readKeyMaterial(key.type, reader), signature, data)
}

function verifyWith(
  type: string,
  material: KeyMaterial,
  { algorithm, bytes, touch }: Signature,
  data: Buffer
): boolean {
  const { key, application, bits } = material
  if (type === 'ssh-rsa') {
    const hash = RSA_HASHES[algorithm]
    if (hash === undefined) return false
    // Some clients drop leading zeros; OpenSSH pads them again too.
    const padding = Math.max(0, Math.ceil(bits / 8) - bytes.length)
    return verify(hash, data, key, Buffer.concat([Buffer.alloc(padding), bytes]))
  }
  if (algorithm !== type) return false
  if (isCurve(type)) return verify(CURVES[type].hash, data, key, bytes)
  if (type === 'ssh-ed25519') return verify(null, data, key, bytes)
  if (!application || !touch || (touch.flags & USER_PRESENT) === 0) return false
  const tail = Buffer.alloc(5)
  tail.writeUInt8(touch.flags)
  tail.writeUInt32BE(touch.counter, 1)
  const message = Buffer.concat([sha256(application), tail, sha256(data)])
  return verify(type.includes('ecdsa') ? 'sha256' : null, message, key, bytes)
}

const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()

/** RFC 5656 section 3.1.2 (two mpints) → the DER sequence OpenSSL wants. */
function toDer(body: Buffer): Buffer {
  const reader = new WireReader(body)
  const numbers = [reader.unsigned(), reader.unsigned()].map(number => {
    const sign = number.length === 0 || (number[0] as number) >= 0x80 ? [0] : []
    return element(0x02, Buffer.from([...sign, ...number]))
  })
  if (reader.left > 0) throw new RangeError('bytes after the numbers')
  return element(0x30, Buffer.concat(numbers))
}

function element(tag: number, content: Buffer): Buffer {
  if (content.length > 255) throw new RangeError('number too long')
  const length = content.length < 128 ? [content.length] : [0x81, content.length]
  return Buffer.concat([Buffer.from([tag, ...length]), content])
}
