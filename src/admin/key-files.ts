import { readFileSync } from 'node:fs'
import { UserError } from '../errors.ts'

/**
 * The public key lines of a file such as id_ed25519.pub or authorized_keys; `-` and /dev/stdin are standard input, a socket too. Blank lines and comments
 * are left out.
 * @throws UserError `usage` when it cannot be read or holds no line
 */
export function readKeyLines(file: string): string[] {
  let text: string
  try {
    text = readFileSync(/^(-|\/dev\/stdin)$/.test(file) ? 0 : file, 'utf8')
  } catch (error) {
    throw new UserError('usage', `${file} cannot be read: ${(error as Error).message}.`, {
      hint: 'Give the file of a public key, such as id_ed25519.pub.',
      cause: error
    })
  }
  const lines = text.split('\n').map(line => line.trim())
  const keys = lines.filter(line => line !== '' && !line.startsWith('#'))
  if (keys.length === 0) {
    throw new UserError('usage', `${file} holds no key.`, {
      hint: 'Give the file of a public key, such as id_ed25519.pub.'
    })
  }
  return keys
}
