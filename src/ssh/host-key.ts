import { closeSync, fsyncSync, linkSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { randomBytes } from 'node:crypto'
import ssh2 from 'ssh2'

export interface HostKey {
  /** OpenSSH's own PEM. */
  readonly privateKey: string
  /** `ssh-ed25519 AAAA…`, without a comment. */
  readonly publicKey: string
}

/** A new SSH host key, ECDSA on P-256. */
export function generateHostKey(type: 'ed25519' | 'ecdsa'): HostKey {
  for (;;) {
    const pair =
      type === 'ed25519'
        ? ssh2.utils.generateKeyPairSync('ed25519')
        : ssh2.utils.generateKeyPairSync('ecdsa', { bits: 256 })
    // ssh2 1.17 drops the first byte of an Ed25519 key where it is zero, once in 256: then nobody can read it.
    if (!(ssh2.utils.parseKey(pair.private) instanceof Error)) {
      return { privateKey: pair.private, publicKey: pair.public.trim() }
    }
  }
}

/**
 * The Ed25519 host key of the manage endpoints, made at first use. The file appears whole or not at all, mode 0600, and is on
 * the disk before any client sees the key; of two processes that make one at the same time, both return the same.
 */
export function loadOrCreateHostKey(path: string): HostKey {
  const existing = readHostKey(path)
  if (existing) return existing
  const partial = `${path}.${randomBytes(6).toString('hex')}`
  const file = openSync(partial, 'wx', 0o600)
  try {
    writeSync(file, generateHostKey('ed25519').privateKey)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  try {
    // A link, unlike a rename, never replaces a key that somebody may have seen already.
    linkSync(partial, path)
    syncDirectory(dirname(path))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    unlinkSync(partial)
  }
  return readHostKey(path) as HostKey
}

function readHostKey(path: string): HostKey | undefined {
  let privateKey: string
  try {
    privateKey = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  const parsed = ssh2.utils.parseKey(privateKey)
  if (parsed instanceof Error) throw new Error(`${path} holds no SSH private key`, { cause: parsed })
  if (parsed.type !== 'ssh-ed25519') throw new Error(`${path} holds a key of type ${parsed.type}, not ssh-ed25519`)
  return { privateKey, publicKey: `${parsed.type} ${parsed.getPublicSSH().toString('base64')}` }
}

function syncDirectory(path: string): void {
  const directory = openSync(path, 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
}
