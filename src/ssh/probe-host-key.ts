import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import ssh2, { type KexAlgorithm } from 'ssh2'

export interface ProbedHostKey {
  readonly type: string
  /** `ssh-ed25519 AAAA…` */
  readonly publicKey: string
}

/**
 * The server may be a member's. Diffie-Hellman would let it choose the prime, and Node tests that for primality on the one thread: ten
 * seconds with those of sshd's own /etc/ssh/moduli, minutes with larger ones.
 */
const KEX: KexAlgorithm[] = [
  'curve25519-sha256',
  'curve25519-sha256@libssh.org',
  'ecdh-sha2-nistp256',
  'ecdh-sha2-nistp384',
  'ecdh-sha2-nistp521'
]

/**
 * Asks an SSH server for its host key, Ed25519 if it has one, and leaves before logging in (RFC 4253 section 8).
 * @param options.timeoutMs for connection and key exchange together
 * @throws Error that says what happened instead: refused, no answer in time, closed too early, not SSH; or the signal's reason
 */
export async function probeHostKey(
  host: string,
  port: number,
  { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal }
): Promise<ProbedHostKey> {
  const where = `${host}:${port}`
  const timeout = AbortSignal.timeout(timeoutMs)
  const stop = signal ? AbortSignal.any([signal, timeout]) : timeout
  const socket = connect({ host, port, noDelay: true })
  try {
    await once(socket, 'connect', { signal: stop })
    return await readHostKey(socket, stop)
  } catch (error) {
    signal?.throwIfAborted()
    const reason = timeout.aborted ? `no SSH answer within ${timeoutMs} ms` : (error as Error).message
    throw new Error(`${where}: ${reason}`, { cause: error })
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}

function readHostKey(socket: Socket, stop: AbortSignal): Promise<ProbedHostKey> {
  return new Promise((resolve, reject) => {
    const client = new ssh2.Client()
    stop.addEventListener('abort', () => reject(stop.reason as Error), { once: true })
    client.on('error', reject)
    client.connect({
      sock: socket,
      username: 'probe',
      readyTimeout: 0,
      algorithms: { kex: KEX, serverHostKey: ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'rsa-sha2-512', 'rsa-sha2-256'] },
      hostVerifier: (blob: Buffer) => {
        const type = blob.subarray(4, 4 + blob.readUInt32BE()).toString()
        resolve({ type, publicKey: `${type} ${blob.toString('base64')}` })
        return false
      }
    })
  })
}
