import type { Database } from '../db/open.ts'
import type { User } from '../directory/users.ts'
import type { PlacedFile } from './place-files.ts'

export interface HostKey {
  /** Of the file name: `ed25519` or `ecdsa`. */
  readonly type: string
  /** `ssh-ed25519 AAAA…`, without a comment. */
  readonly publicKey: string
  /** OpenSSH's own PEM. */
  readonly privateKey: string
}

export type GenerateHostKey = (type: 'ed25519' | 'ecdsa') => { privateKey: string; publicKey: string }

const TYPES = ['ed25519', 'ecdsa'] as const

/** The SSH host identities of the containers: made once per member and node, and kept through everything that happens to it. */
export class HostKeys {
  readonly #database: Database
  readonly #generate: GenerateHostKey

  constructor(database: Database, generate: GenerateHostKey) {
    this.#database = database
    this.#generate = generate
  }

  /** The keys of a member's container on a node, Ed25519 first; made when there are none yet. */
  of(user: User, node: string): HostKey[] {
    return this.#database
      .transaction(() => {
        const known = this.#database
          .prepare<[number, string], HostKey>(
            'SELECT type, public_key AS publicKey, private_key AS privateKey FROM host_keys WHERE user_id = ? AND node = ?'
          )
          .all(user.id, node)
        return TYPES.map(type => known.find(key => key.type === type) ?? this.#make(user, node, type))
      })
      .immediate()
  }

  #make(user: User, node: string, type: (typeof TYPES)[number]): HostKey {
    const { privateKey, publicKey } = this.#generate(type)
    this.#database
      .prepare('INSERT INTO host_keys (user_id, node, type, public_key, private_key) VALUES (?, ?, ?, ?, ?)')
      .run(user.id, node, type, publicKey, privateKey)
    return { type, publicKey, privateKey }
  }
}

/** The files sshd reads them from (sshd_config(5), HostKey). */
export function hostKeyFiles(keys: readonly HostKey[]): PlacedFile[] {
  return keys.flatMap(({ type, publicKey, privateKey }) => [
    { path: `/etc/ssh/ssh_host_${type}_key`, content: privateKey, mode: 0o600 },
    { path: `/etc/ssh/ssh_host_${type}_key.pub`, content: `${publicKey}\n`, mode: 0o644 }
  ])
}
