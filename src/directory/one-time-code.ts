import { createHash, randomBytes } from 'node:crypto'

/** Crockford's base32: no I, L, O, U, so that a code survives being read aloud. */
const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/** So many random bits, in as many letters as they need. */
export function makeCode(bits: number): string {
  let number = BigInt(`0x${randomBytes(bits / 8).toString('hex')}`)
  let text = ''
  for (let index = 0; index < bits / 5; index++) {
    text = ALPHABET.charAt(Number(number & 31n)) + text
    number >>= 5n
  }
  return text
}

/** What is kept of a code. Typed codes are forgiven case, dashes and Crockford's look-alikes. */
export function hashCode(code: string): Buffer {
  const canonical = code.toUpperCase().replaceAll('-', '').replaceAll('O', '0').replaceAll(/[IL]/g, '1')
  return createHash('sha256').update(canonical).digest()
}
