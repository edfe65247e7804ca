import { createHash, generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { uint32, WireReader, wireString } from '../../src/directory/wire.ts'

const APPLICATION = 'ssh:'
const IDENTITIES_REQUEST = 11
const IDENTITIES_ANSWER = 12
const SIGN_REQUEST = 13
const SIGN_RESPONSE = 14
const FAILURE = 5

/** A FIDO token in software (OpenSSH's PROTOCOL.u2f): the signatures a real one would make, and some it would not. */
export class SoftwareToken {
  readonly type: 'sk-ssh-ed25519@openssh.com' | 'sk-ecdsa-sha2-nistp256@openssh.com'
  readonly blob: Buffer
  readonly #privateKey: KeyObject
  /** Flags it puts into each signature: 1 somebody touched it, 4 a PIN was given. */
  flags = 1
  /** Changes the signature after it was made. */
  spoil = (signature: Buffer) => signature

  constructor(kind: 'ed25519' | 'ecdsa') {
    const pair =
      kind === 'ed25519' ? generateKeyPairSync('ed25519') : generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const { x = '', y = '' } = pair.publicKey.export({ format: 'jwk' })
    const bytes = (text: string) => Buffer.from(text, 'base64url')
    this.#privateKey = pair.privateKey
    this.type = kind === 'ed25519' ? 'sk-ssh-ed25519@openssh.com' : 'sk-ecdsa-sha2-nistp256@openssh.com'
    const key =
      kind === 'ed25519'
        ? wireString(bytes(x))
        : Buffer.concat([wireString('nistp256'), wireString(Buffer.concat([Buffer.of(4), bytes(x), bytes(y)]))])
    this.blob = Buffer.concat([wireString(this.type), key, wireString(APPLICATION)])
  }

  get publicKey(): string {
    return `${this.type} ${this.blob.toString('base64')} token`
  }

  sign(data: Buffer): Buffer {
    const tail = Buffer.concat([Buffer.of(this.flags), uint32(7)])
    const message = Buffer.concat([sha256(Buffer.from(APPLICATION)), tail, sha256(data)])
    const made =
      this.type === 'sk-ssh-ed25519@openssh.com'
        ? sign(null, message, this.#privateKey)
        : twoNumbers(sign('sha256', message, { key: this.#privateKey, dsaEncoding: 'ieee-p1363' }))
    return Buffer.concat([wireString(this.type), wireString(this.spoil(made)), tail])
  }
}

const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()

const twoNumbers = (signature: Buffer): Buffer =>
  Buffer.concat(
    [signature.subarray(0, 32), signature.subarray(32)].map(half => wireString(Buffer.concat([Buffer.of(0), half])))
  )

/** An ssh-agent that holds tokens, each under its key or a certificate of it (draft-miller-ssh-agent). */
export async function startTokenAgent(path: string, identities: Map<Buffer, SoftwareToken>): Promise<AsyncDisposable> {
  const answer = (request: Buffer): Buffer => {
    const reader = new WireReader(request)
    const kind = reader.byte()
    if (kind === IDENTITIES_REQUEST) {
      const entries = [...identities.keys()].map(blob => Buffer.concat([wireString(blob), wireString('token')]))
      return Buffer.concat([Buffer.of(IDENTITIES_ANSWER), uint32(identities.size), ...entries])
    }
    if (kind !== SIGN_REQUEST) return Buffer.of(FAILURE)
    const blob = reader.string()
    const token = [...identities].find(([known]) => known.equals(blob))?.[1]
    return token
      ? Buffer.concat([Buffer.of(SIGN_RESPONSE), wireString(token.sign(reader.string()))])
      : Buffer.of(FAILURE)
  }
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    let waiting: Buffer = Buffer.alloc(0)
    socket.on('error', () => {})
    socket.on('data', chunk => {
      waiting = Buffer.concat([waiting, chunk])
      while (waiting.length >= 4 && waiting.length >= 4 + waiting.readUInt32BE()) {
        const end = 4 + waiting.readUInt32BE()
        socket.write(wireString(answer(waiting.subarray(4, end))))
        waiting = waiting.subarray(end)
      }
    })
  })
  server.listen(path)
  await once(server, 'listening')
  return {
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      const closed = once(server, 'close')
      server.close()
      await closed
    }
  }
}
