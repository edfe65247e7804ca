import type { Algorithms } from 'ssh2'

/**
 * What berth offers: authenticated encryption, SHA-2, no CBC, no compression (ssh2's zlib breaks when a client rekeys).
 * Only curve25519: every client that knows the Ed25519 host key knows it, and the large Diffie-Hellman groups would let
 * strangers stop the one thread for a tenth of a second each. The older name stands first, or dropbear's client hangs when
 * its first guess is right and ssh2 discards it.
 */
export const ALGORITHMS: Algorithms = {
  kex: ['curve25519-sha256@libssh.org', 'curve25519-sha256'],
  serverHostKey: ['ssh-ed25519'],
  cipher: [
    'aes256-gcm@openssh.com',
    'aes128-gcm@openssh.com',
    'chacha20-poly1305@openssh.com',
    'aes256-ctr',
    'aes192-ctr',
    'aes128-ctr'
  ],
  hmac: ['hmac-sha2-512-etm@openssh.com', 'hmac-sha2-256-etm@openssh.com'],
  compress: ['none']
}

/** The signatures a client may prove its key with. */
export const SIGNATURES = [
  'ssh-ed25519',
  'sk-ssh-ed25519@openssh.com',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'sk-ecdsa-sha2-nistp256@openssh.com',
  'rsa-sha2-512',
  'rsa-sha2-256'
]
