/** Reads the data types of RFC 4251 section 5 one after the other. @throws RangeError when the bytes end too early */
export class WireReader {
  readonly #bytes: Buffer
  #position = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get position(): number {
    return this.#position
  }

  get left(): number {
    return this.#bytes.length - this.#position
  }

  take(length: number): Buffer {
    if (length > this.left) throw new RangeError(`${length} bytes wanted, ${this.left} left`)
    const start = this.#position
    this.#position += length
    return this.#bytes.subarray(start, this.#position)
  }

  byte(): number {
    return this.take(1).readUInt8()
  }

  uint32(): number {
    return this.take(4).readUInt32BE()
  }

  uint64(): bigint {
    return this.take(8).readBigUInt64BE()
  }

  string(): Buffer {
    return this.take(this.uint32())
  }

  text(): string {
    return this.string().toString('utf8')
  }

  /** A non-negative mpint without its leading zero bytes. */
  unsigned(): Buffer {
    const bytes = this.string()
    if ((bytes[0] ?? 0) >= 0x80) throw new RangeError('negative number')
    const first = bytes.findIndex(byte => byte !== 0)
    return first === -1 ? Buffer.alloc(0) : bytes.subarray(first)
  }
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** A `string` of RFC 4251 section 5. */
export function wireString(value: string | Buffer): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value
  return Buffer.concat([uint32(bytes.length), bytes])
}
