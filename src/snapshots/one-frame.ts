import { crc32, createInflateRaw, createZstdDecompress, type InflateRaw, type ZstdDecompress } from 'node:zlib'
import { UserError } from '../errors.ts'
import { refuseArchive } from './archive-refusal.ts'
import type { Compression } from './inspect.ts'

/** What unpacks an archive given in pieces. */
export interface Unpacker {
  /**
   * Resolves when `take` has been given all that the piece holds; the next may be written before. @throws UserError
   * `archive-refused`, or what `take` threw
   */
  write(chunk: Buffer): Promise<void>
  end(): Promise<void>
}

/** The bytes are gone when it returns. */
type Take = (plain: Buffer) => void

/** The programs the server unpacks with go on reading after the first frame or member; an archive with more than one is refused. */
export function createUnpacker(compression: Compression, take: Take): Unpacker {
  if (compression === 'zstd') return new OneZstdFrame(take)
  if (compression === 'gzip') return new OneGzipMember(take)
  return {
    write: async chunk => take(chunk),
    end: async () => {}
  }
}

/** Of one turn of the decoder's thread: fewer turns take less time, and larger ones more memory. */
const OUTPUT_CHUNK_BYTES = 8 * 2 ** 20

/** Feeds one of Node's decoders and tells of what it could not read. */
class Decoder {
  readonly #stream: ZstdDecompress | InflateRaw
  #fault: Error | undefined
  #hasEnded = false
  /** Whoever waits: a decoder that fails forgets their callbacks. */
  readonly #waiting = new Set<() => void>()

  constructor(stream: ZstdDecompress | InflateRaw, take: Take) {
    this.#stream = stream
    stream.on('error', error => {
      this.#fault ??= error
      this.#proceed()
    })
    stream.on('end', () => {
      this.#hasEnded = true
      this.#proceed()
    })
    // As a microtask, so that the decoder's own thread is at the next chunk meanwhile.
    stream.on('data', (plain: Buffer) => queueMicrotask(() => this.#pass(plain, take)))
  }

  /** Compressed bytes the decoder has used up. */
  get usedBytes(): number {
    return this.#stream.bytesWritten
  }

  async write(chunk: Buffer): Promise<void> {
    await new Promise<void>(resolve => {
      this.#waiting.add(resolve)
      this.#stream.write(chunk, () => {
        this.#waiting.delete(resolve)
        resolve()
      })
    })
    this.#check()
  }

  async end(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#waiting.add(resolve)
      this.#stream.end()
      if (this.#hasEnded || this.#fault) resolve()
    })
    this.#check()
  }

  #proceed(): void {
    for (const resolve of this.#waiting) resolve()
  }

  #pass(plain: Buffer, take: Take): void {
    if (this.#fault) return
    try {
      take(plain)
    } catch (error) {
      this.#fault = error as Error
      // Not after the rest of the piece: a bomb may unpack to gigabytes of it.
      this.#proceed()
    }
    // The decoder takes other memory when this is full. Freed here: a gigabyte of garbage would take the collector longer than the tar.
    if (plain.byteOffset + plain.length === plain.buffer.byteLength) (plain.buffer as ArrayBuffer).transfer(0)
  }

  #check(): void {
    if (!this.#fault) return
    this.#stream.destroy()
    if (this.#fault instanceof UserError) throw this.#fault
    refuseArchive('Its compressed data are damaged.')
  }
}

const ZSTD_MAGIC = 0xfd2fb528
/** Blocks of RFC 8878 are at most 128 KiB; the decoder keeps one window in memory. zstd's default levels stay within 8 MiB. */
const MAX_BLOCK_BYTES = 128 * 1024
const MAX_WINDOW_BYTES = 8 * 2 ** 20

/** One frame of RFC 8878 and nothing else. Its structure is walked here since Node's decoder stops silently after a frame. */
class OneZstdFrame implements Unpacker {
  readonly #decoder: Decoder
  /** Bytes of a header that has not come whole. */
  #header = Buffer.alloc(0)
  #needed = 6
  #read: 'frame' | 'block' | 'checksum' | 'nothing' = 'frame'
  #skip = 0
  #hasChecksum = false
  #isLast = false

  constructor(take: Take) {
    this.#decoder = new Decoder(createZstdDecompress({ chunkSize: OUTPUT_CHUNK_BYTES }), take)
  }

  async write(chunk: Buffer): Promise<void> {
    this.#walk(chunk)
    await this.#decoder.write(chunk)
  }

  async end(): Promise<void> {
    if (this.#read !== 'nothing') refuseArchive('Its compressed data are cut off.')
    await this.#decoder.end()
  }

  #walk(chunk: Buffer): void {
    for (let at = 0; at < chunk.length;) {
      if (this.#skip > 0) {
        const skipped = Math.min(this.#skip, chunk.length - at)
        this.#skip -= skipped
        at += skipped
        if (this.#skip === 0 && this.#isLast) this.#finishBlocks()
        continue
      }
      if (this.#read === 'nothing')
        refuseArchive('There are bytes after its compressed data, such as a second zstd frame.')
      const taken = chunk.subarray(at, at + this.#needed - this.#header.length)
      this.#header = Buffer.concat([this.#header, taken])
      at += taken.length
      if (this.#header.length === this.#needed) this.#readHeader(this.#header)
    }
  }

  #readHeader(header: Buffer): void {
    if (this.#read === 'frame' && header.length === 6) {
      this.#needed = checkFrameHeader(header)
      this.#hasChecksum = (header.readUInt8(4) & 4) !== 0
      if (header.length < this.#needed) return
    }
    if (this.#read === 'frame') checkWindow(header)
    if (this.#read === 'block') {
      const bits = header.readUIntLE(0, 3)
      const [type, sizeBytes] = [(bits >> 1) & 3, bits >> 3]
      if (type === 3 || sizeBytes > MAX_BLOCK_BYTES) refuseArchive('Its compressed data are damaged.')
      this.#isLast = (bits & 1) === 1
      this.#skip = type === 1 ? 1 : sizeBytes
    }
    if (this.#read === 'checksum') this.#read = 'nothing'
    else {
      this.#read = 'block'
      this.#needed = 3
    }
    this.#header = Buffer.alloc(0)
    if (this.#isLast && this.#skip === 0) this.#finishBlocks()
  }

  #finishBlocks(): void {
    if (this.#read === 'nothing') return
    this.#isLast = false
    this.#read = this.#hasChecksum ? 'checksum' : 'nothing'
    this.#needed = 4
  }
}

/** @returns the length of the whole frame header */
function checkFrameHeader(header: Buffer): number {
  const descriptor = header.readUInt8(4)
  if (header.readUInt32LE(0) !== ZSTD_MAGIC) refuseArchive('It is not compressed with zstd.')
  // A dictionary, or bits that RFC 8878 reserves.
  if ((descriptor & 0b1_1011) !== 0) refuseArchive('Its compression is not what the server makes.')
  const isSingleSegment = (descriptor & 0x20) !== 0
  const sizeField = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] as number
  return 5 + (isSingleSegment ? 0 : 1) + sizeField
}

function checkWindow(header: Buffer): void {
  const isSingleSegment = (header.readUInt8(4) & 0x20) !== 0
  const byte = header.readUInt8(5)
  const base = 2 ** (10 + (byte >> 3))
  const windowBytes = isSingleSegment ? readContentSize(header.subarray(5)) : base + (base / 8) * (byte & 7)
  if (windowBytes > MAX_WINDOW_BYTES) refuseArchive('Decompressing it would take too much memory.')
}

function readContentSize(field: Buffer): number {
  if (field.length === 8) return Number(field.readBigUInt64LE(0))
  return field.readUIntLE(0, field.length) + (field.length === 2 ? 256 : 0)
}

/** ID1 ID2 CM FLG, with no name, comment or extra field: as RFC 1952 has it for a stream without a file. */
const GZIP_MAGIC = [0x1f, 0x8b, 8, 0]
const GZIP_HEADER_BYTES = 10
const GZIP_TRAILER_BYTES = 8

/** One member of RFC 1952 that ends where the file ends. */
class OneGzipMember implements Unpacker {
  readonly #decoder: Decoder
  #header = Buffer.alloc(0)
  /** The last bytes that came: none after them, they are the trailer. */
  #trailer = Buffer.alloc(0)
  #dataBytes = 0
  #checksum = 0
  #plainBytes = 0

  constructor(take: Take) {
    this.#decoder = new Decoder(createInflateRaw({ chunkSize: OUTPUT_CHUNK_BYTES }), plain => {
      this.#checksum = crc32(plain, this.#checksum)
      this.#plainBytes += plain.length
      take(plain)
    })
  }

  async write(chunk: Buffer): Promise<void> {
    const header = chunk.subarray(0, GZIP_HEADER_BYTES - this.#header.length)
    if (header.length > 0) this.#readHeader(header)
    const data = chunk.subarray(header.length)
    const last = Buffer.concat([this.#trailer, data.subarray(-GZIP_TRAILER_BYTES)])
    this.#trailer = last.subarray(-GZIP_TRAILER_BYTES)
    const parts = [last, data].map(bytes => bytes.subarray(0, -GZIP_TRAILER_BYTES)).filter(({ length }) => length > 0)
    for (const { length } of parts) this.#dataBytes += length
    await Promise.all(parts.map(part => this.#decoder.write(part)))
  }

  async end(): Promise<void> {
    await this.#decoder.end()
    if (this.#decoder.usedBytes !== this.#dataBytes)
      refuseArchive('There are bytes after its compressed data, such as a second gzip member.')
    const trailer = this.#trailer
    if (trailer.length !== GZIP_TRAILER_BYTES || trailer.readUInt32LE(0) !== this.#checksum)
      refuseArchive('Its compressed data are damaged.')
    if (trailer.readUInt32LE(4) !== this.#plainBytes % 2 ** 32) refuseArchive('Its compressed data are damaged.')
  }

  #readHeader(bytes: Buffer): void {
    this.#header = Buffer.concat([this.#header, bytes])
    if (this.#header.length === GZIP_HEADER_BYTES && GZIP_MAGIC.some((byte, index) => this.#header[index] !== byte))
      refuseArchive('It is not compressed with gzip as the server does it.')
  }
}
