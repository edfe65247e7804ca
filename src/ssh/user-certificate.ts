import { BlockList, isIP } from 'node:net'
import { publicKeyFromBlob, readKeyMaterial, type PublicKey } from '../directory/public-key.ts'
import { WireReader, wireString } from '../directory/wire.ts'
import { readSignature, verifySignature } from './verify-signature.ts'

/** An OpenSSH certificate (OpenSSH's PROTOCOL.certkeys), read but not yet believed. */
export interface UserCertificate {
  /** The certified key. */
  readonly key: PublicKey
  readonly kind: number
  readonly principals: readonly string[]
  readonly validAfterS: bigint
  readonly validBeforeS: bigint
  readonly criticalOptions: ReadonlyMap<string, Buffer>
  readonly authority: PublicKey
  readonly signed: Buffer
  readonly signature: Buffer
}

const SUFFIX = '-cert-v01@openssh.com'
const KIND_USER = 1

export const isCertificateType = (type: string): boolean => type.endsWith(SUFFIX)

/** `ssh-ed25519-cert-v01@openssh.com` → `ssh-ed25519`, and likewise for the hardware kinds. */
export function plainType(type: string): string {
  const plain = type.slice(0, -SUFFIX.length)
  return plain.startsWith('sk-') ? `${plain}@openssh.com` : plain
}

/** @throws RangeError or UserError `bad-key` when it is malformed */
export function readUserCertificate(blob: Buffer): UserCertificate {
  const reader = new WireReader(blob)
  const type = reader.text()
  if (!isCertificateType(type)) throw new RangeError('not a certificate')
  reader.string() // nonce
  const start = reader.position
  readKeyMaterial(plainType(type), reader)
  const fields = blob.subarray(start, reader.position)
  reader.uint64() // serial
  const kind = reader.uint32()
  reader.string() // key id
  const principals = readList(reader.string(), list => list.text())
  const validAfterS = reader.uint64()
  const validBeforeS = reader.uint64()
  const criticalOptions = new Map(readList(reader.string(), list => [list.text(), list.string()] as const))
  reader.string() // extensions: each only adds what berth does not offer
  reader.string() // reserved
  const authority = publicKeyFromBlob(reader.string())
  const signed = blob.subarray(0, reader.position)
  const signature = reader.string()
  if (reader.left > 0) throw new RangeError('bytes after the certificate')
  const key = publicKeyFromBlob(Buffer.concat([wireString(plainType(type)), fields]))
  return { key, kind, principals, validAfterS, validBeforeS, criticalOptions, authority, signed, signature }
}

/** What is wrong with a certificate for this login, in words; undefined when it may be believed. */
export function certificateFault(
  certificate: UserCertificate,
  {
    login,
    address,
    authorities,
    nowMs
  }: { login: string; address: string; authorities: readonly PublicKey[]; nowMs: number }
): string | undefined {
  const { authority, signature, signed, criticalOptions } = certificate
  if (!authorities.some(known => known.blob.equals(authority.blob))) return 'it is signed by an authority unknown here'
  if (!verifySignature(authority, readSignature(signature), signed)) return 'the signature of its authority is wrong'
  if (certificate.kind !== KIND_USER) return 'it is a host certificate'
  if (!certificate.principals.includes(login)) return `it is not for the name ${JSON.stringify(login)}`
  const nowS = BigInt(Math.floor(nowMs / 1000))
  if (nowS < certificate.validAfterS) return 'it is not valid yet'
  if (nowS >= certificate.validBeforeS) return 'it has expired'
  for (const [name, value] of criticalOptions) {
    if (name === 'verify-required') continue
    if (name !== 'source-address') return `its critical option ${JSON.stringify(name)} is not supported here`
    if (!isListed(address, new WireReader(value).text())) return 'it may not be used from your address'
  }
  return undefined
}

function readList<T>(bytes: Buffer, read: (reader: WireReader) => T): T[] {
  const reader = new WireReader(bytes)
  const items: T[] = []
  while (reader.left > 0) items.push(read(reader))
  return items
}

/** Whether an address is in a comma-separated list of addresses and networks; a list with a fault in it holds nothing. */
function isListed(address: string, list: string): boolean {
  const networks = new BlockList()
  for (const entry of list.split(',')) {
    const [base = '', bits, ...rest] = entry.split('/')
    const version = isIP(base)
    const widest = version === 4 ? 32 : 128
    if (version === 0 || rest.length > 0 || !/^\d{1,3}$/.test(bits ?? '0') || Number(bits ?? 0) > widest) return false
    networks.addSubnet(base, bits === undefined ? widest : Number(bits), version === 4 ? 'ipv4' : 'ipv6')
  }
  return networks.check(address, isIP(address) === 4 ? 'ipv4' : 'ipv6')
}
