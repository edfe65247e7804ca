import { createHash } from 'node:crypto'
import { ArchiveLayout } from './archive-layout.ts'
import { refuseArchive } from './archive-refusal.ts'
import type { ArchiveContents, Claims } from './inspect.ts'
import { createUnpacker, type Unpacker } from './one-frame.ts'
import { TarReader } from './tar-reader.ts'

/** Hashes, unpacks and inspects an archive of a known size that is given in pieces. All but what its two YAML files say. */
export class Inspection {
  readonly #claims: Claims
  readonly #sizeBytes: number
  readonly #hash = createHash('sha256')
  readonly #layout: ArchiveLayout
  readonly #tar: TarReader
  readonly #unpacker: Unpacker
  /** The last piece on its way. */
  #unpacking: Promise<void> | undefined

  /** @throws UserError `archive-refused`, as do its methods */
  constructor(claims: Claims, sizeBytes: number, receiveYaml: (path: string, content: Uint8Array) => void) {
    this.#claims = claims
    this.#sizeBytes = sizeBytes
    if (claims.sizeBytes !== undefined && claims.sizeBytes !== sizeBytes)
      refuseArchive(`It has ${sizeBytes} bytes and not the ${claims.sizeBytes} that were recorded.`)
    this.#layout = new ArchiveLayout(receiveYaml)
    this.#tar = new TarReader(this.#layout.visit)
    this.#unpacker = createUnpacker(claims.compression, plain => this.#takePlain(plain))
  }

  /**
   * Resolves when all pieces before this one have been looked at; this one must stay as it is until the next has resolved, or the end.
   * So the decoder, which has a thread of its own, always has something to do.
   */
  async write(piece: Buffer): Promise<void> {
    const before = this.#unpacking
    this.#unpacking = this.#unpacker.write(piece)
    this.#unpacking.catch(() => {})
    this.#hash.update(piece)
    await before
  }

  async end(): Promise<ArchiveContents> {
    await this.#unpacking
    await this.#unpacker.end()
    this.#tar.end()
    this.#layout.end()
    const uncompressedBytes = this.#tar.sizeBytes
    const sha256 = this.#hash.digest('hex')
    const claims = this.#claims
    if (claims.uncompressedBytes !== undefined && uncompressedBytes !== claims.uncompressedBytes)
      refuseArchive(`It unpacks to ${uncompressedBytes} bytes and not the ${claims.uncompressedBytes} recorded.`)
    if (claims.sha256 !== undefined && sha256 !== claims.sha256)
      refuseArchive('Its SHA-256 is not the one that was recorded: it has been damaged or replaced.')
    return { sha256, sizeBytes: this.#sizeBytes, uncompressedBytes }
  }

  #takePlain(plain: Buffer): void {
    const { uncompressedBytes = Infinity } = this.#claims
    if (this.#tar.sizeBytes + plain.length > uncompressedBytes)
      refuseArchive(`It unpacks to more than the ${uncompressedBytes} bytes that were recorded.`)
    this.#tar.push(plain)
  }
}
