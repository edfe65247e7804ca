import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { formatPublicKey, parsePublicKey, publicKeyFromBlob } from '../../src/directory/public-key.ts'
import type { UserError } from '../../src/errors.ts'
import { uint32, wireString } from '../../src/directory/wire.ts'
import { makeKey } from './endpoint.ts'
import { SoftwareToken } from './software-token.ts'

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-keys-'))
})
afterAll(() => rmSync(directory, { recursive: true }))

const generate = (name: string, ...type: string[]): string => {
  makeKey(directory, name, type)
  return readFileSync(join(directory, `${name}.pub`), 'utf8')
}

test.each([
  ['ed25519', ['-t', 'ed25519']],
  ['ecdsa256', ['-t', 'ecdsa', '-b', '256']],
  ['ecdsa384', ['-t', 'ecdsa', '-b', '384']],
  ['ecdsa521', ['-t', 'ecdsa', '-b', '521']],
  ['rsa2048', ['-t', 'rsa', '-b', '2048']],
  ['rsa2055', ['-t', 'rsa', '-b', '2055']]
])('%s is read as ssh-keygen reads it', (name, type) => {
  const line = generate(name, ...type)
  const key = parsePublicKey(line)
  const [bits, fingerprint] = execFileSync('ssh-keygen', ['-l', '-f', join(directory, `${name}.pub`)], {
    encoding: 'utf8'
  }).split(' ')
  expect([String(key.bits), key.fingerprint, key.comment]).toEqual([bits, fingerprint, name])
  expect(`${formatPublicKey(key)}\n`).toBe(line)
  expect(publicKeyFromBlob(key.blob).fingerprint).toBe(fingerprint)
})

test.each(['ed25519', 'ecdsa'] as const)('a hardware key, %s', kind => {
  const token = new SoftwareToken(kind)
  expect(parsePublicKey(token.publicKey)).toMatchObject({ type: token.type, bits: 256, comment: 'token' })
})

const modulus = (bits: number) => {
  const bytes = Buffer.alloc(bits / 8, 0x55)
  bytes[0] = 0x80
  bytes[bytes.length - 1] = 1
  return wireString(Buffer.concat([Buffer.of(0), bytes]))
}
const line = (...fields: Buffer[]) => {
  const blob = Buffer.concat(fields)
  return `${blob.subarray(4, 4 + blob.readUInt32BE()).toString()} ${blob.toString('base64')}`
}
const point = (() => {
  const { x = '', y = '' } = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' })
  return Buffer.concat([Buffer.of(4), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')])
})()
const offCurve = Buffer.from(point)
offCurve[64] = (offCurve[64] as number) ^ 1
const ecdsa = (bytes: Buffer, curve = 'nistp256') =>
  line(wireString('ecdsa-sha2-nistp256'), wireString(curve), wireString(bytes))
const ED25519 = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOfG9T9U0Pv+3qeiXzCJ9T7DdR2NJYB3RvXDsKYWjuUJ'

test.each<[string, string, string]>([
  ['nothing', '', 'It is empty.'],
  ['a private key', '-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=', 'It is the private key'],
  ["PuTTY's private key", 'PuTTY-User-Key-File-3: ssh-ed25519', 'It is the private key'],
  ['RFC 4716', '---- BEGIN SSH2 PUBLIC KEY ----\nAAAA', 'ssh-keygen -i -f FILE'],
  ['DSA', 'ssh-dss AAAAB3NzaC1kc3M=', 'DSA keys are broken.'],
  ['options in front', `from="10.0.0.0/8",no-pty ${ED25519} me`, 'It has options in front of the key.'],
  ['a certificate', 'ssh-ed25519-cert-v01@openssh.com AAAA', 'It is a certificate.'],
  ['an unknown type', 'ssh-xyz AAAA', '"ssh-xyz" is no known key type.'],
  ['two keys', `${ED25519}\n${ED25519}`, 'It is more than one line.'],
  ['no base64', 'ssh-ed25519 !!!', 'Its middle part is not base64.'],
  ['a truncated key', ED25519.slice(0, -8), 'It is truncated or damaged.'],
  ['extra bytes', `${ED25519}AAAA`, 'It has extra bytes at its end.'],
  [
    'a type that is not the one inside',
    ED25519.replace('ssh-ed25519', 'ssh-rsa'),
    'It says ssh-rsa and holds "ssh-ed25519".'
  ],
  [
    'RSA of 1024 bits',
    line(wireString('ssh-rsa'), wireString(Buffer.of(1, 0, 1)), modulus(1024)),
    'RSA key of 1024 bits'
  ],
  ['RSA of 32768 bits', line(wireString('ssh-rsa'), wireString(Buffer.of(1, 0, 1)), modulus(32768)), 'unusually large'],
  ['RSA with a huge exponent', line(wireString('ssh-rsa'), modulus(2048), modulus(2048)), 'unusually large'],
  [
    'RSA with a negative modulus',
    line(wireString('ssh-rsa'), wireString(Buffer.of(3)), wireString(Buffer.alloc(256, 0xff))),
    'damaged'
  ],
  ['a point off its curve', ecdsa(offCurve), 'damaged'],
  ['a compressed point', ecdsa(Buffer.concat([Buffer.of(2), point.subarray(1, 33)])), 'damaged'],
  ['another curve than the type says', ecdsa(point, 'nistp384'), 'damaged'],
  ['Ed25519 of 31 bytes', line(wireString('ssh-ed25519'), wireString(Buffer.alloc(31))), 'damaged'],
  ['a length beyond the end', line(wireString('ssh-ed25519'), uint32(0xffffffff)), 'damaged']
])('%s is refused with the reason', (_, text, reason) => {
  let refusal: unknown
  try {
    parsePublicKey(text)
  } catch (error) {
    refusal = error
  }
  expect(refusal).toMatchObject({ reason: 'bad-key' })
  const { details, hint } = refusal as UserError
  expect(`${details} ${hint}`).toContain(reason)
})

test('a comment is one printable line of bounded length', () => {
  const key = parsePublicKey(`${ED25519} me\u001B[2J\u202E\u0000 here ${'x'.repeat(500)}`)
  expect(key.comment).toMatch(/^me \[2J here x+$/)
  expect(key.comment).toHaveLength(200)
  expect(formatPublicKey({ ...key, comment: 'a\nssh-ed25519 AAAA evil' })).not.toContain('\n')
})
