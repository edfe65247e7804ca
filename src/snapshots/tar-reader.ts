import { quote, refuseArchive } from './archive-refusal.ts'

export interface TarEntry {
  /** Its bytes as latin1: names need not be UTF-8. */
  readonly path: string
  readonly type: 'file' | 'link' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo'
  /** Where a link or symlink points to; empty for the others. */
  readonly target: string
  readonly sizeBytes: number
  readonly deviceMajor: number
  readonly deviceMinor: number
}

/** Told of each entry; may return what is to have its content as a whole. */
export type TarVisitor = (entry: TarEntry) => ((content: Buffer) => void) | undefined

const BLOCK = 512
/** Go's archive/tar reads no longer extended header (maxSpecialFileSize). */
const MAX_EXTENDED_BYTES = 2 ** 20
const TYPES: Record<string, TarEntry['type']> = {
  '0': 'file',
  '1': 'link',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo'
}
const EXTENDED_KEYS = new Set(['path', 'linkpath', 'size', 'uid', 'gid', 'uname', 'gname', 'mtime', 'atime', 'ctime'])
const MAGIC = Buffer.from('ustar\x0000', 'latin1')
const [SPACE, ZERO] = [0x20, 0x30]
/** Mode, uid, gid and mtime: where, and how long. */
const NUMBERS_NOT_USED = [
  [100, 8],
  [108, 8],
  [116, 8],
  [136, 12]
] as const
const EXTENDED_PREFIXES = ['SCHILY.xattr.', 'SCHILY.acl.']

/**
 * Reads a tar as LXD and Incus write one, and no other: what Go's archive/tar writes in its USTAR and PAX formats. Readers of tar
 * disagree about nearly all else (GNU names, global headers, sparse files, base-256 numbers, one block of zeros, junk behind a NUL),
 * and the server reads an archive with two of them: Go's for index.yaml, GNU tar for the files. node-tar would be a third, and takes
 * a line of a binary xattr for a `path` of its own.
 * @throws UserError `archive-refused` from `push` and `end`
 */
export class TarReader {
  readonly #visit: TarVisitor
  /** Collects a header that comes in pieces. */
  readonly #block = Buffer.alloc(BLOCK)
  #blockFill = 0
  #bodyLeft = 0
  #paddingLeft = 0
  #collected: Buffer[] | undefined
  #receive: ((content: Buffer) => void) | undefined
  #extended: Map<string, string> | undefined
  #zeroBlocks = 0
  /** Of the tar so far. */
  sizeBytes = 0

  constructor(visit: TarVisitor) {
    this.#visit = visit
  }

  /** The chunk may be reused afterwards. */
  push(chunk: Buffer): void {
    this.sizeBytes += chunk.length
    for (let at = 0; at < chunk.length;) {
      if (this.#zeroBlocks === 2) refuseArchive('There are bytes after the end of the tar.')
      if (this.#bodyLeft > 0) at += this.#takeBody(chunk, at)
      else if (this.#paddingLeft > 0) at += this.#takePadding(chunk, at)
      else at += this.#takeHeader(chunk, at)
    }
  }

  end(): void {
    if (this.#zeroBlocks !== 2) refuseArchive('The tar has no end: the archive is cut off.')
  }

  #takeBody(chunk: Buffer, at: number): number {
    const taken = Math.min(this.#bodyLeft, chunk.length - at)
    this.#collected?.push(Buffer.from(chunk.subarray(at, at + taken)))
    this.#bodyLeft -= taken
    if (this.#bodyLeft === 0) this.#finishBody()
    return taken
  }

  #finishBody(): void {
    const [receive, collected] = [this.#receive, this.#collected]
    this.#receive = undefined
    this.#collected = undefined
    if (receive && collected) receive(Buffer.concat(collected))
  }

  #takePadding(chunk: Buffer, at: number): number {
    const taken = Math.min(this.#paddingLeft, chunk.length - at)
    if (!isZero(chunk, at, taken)) refuseArchive('There are bytes between two entries of the tar.')
    this.#paddingLeft -= taken
    return taken
  }

  #takeHeader(chunk: Buffer, at: number): number {
    if (this.#blockFill === 0 && chunk.length - at >= BLOCK) {
      this.#readHeader(chunk.subarray(at, at + BLOCK))
      return BLOCK
    }
    const taken = Math.min(BLOCK - this.#blockFill, chunk.length - at)
    chunk.copy(this.#block, this.#blockFill, at, at + taken)
    this.#blockFill += taken
    if (this.#blockFill === BLOCK) {
      this.#blockFill = 0
      this.#readHeader(this.#block)
    }
    return taken
  }

  #readHeader(block: Buffer): void {
    if (block[0] === 0 && isZero(block, 0, BLOCK)) {
      if (this.#extended) refuseArchive('An extended header belongs to no entry.')
      this.#zeroBlocks += 1
      return
    }
    if (this.#zeroBlocks > 0) refuseArchive('There are entries after the end of the tar.')
    checkBlock(block)
    const type = String.fromCharCode(block[156] as number)
    const sizeBytes = readNumber(block, 124, 12)
    if (type === 'x') this.#readExtended(sizeBytes)
    else this.#readEntry(block, type, sizeBytes)
  }

  #readExtended(sizeBytes: number): void {
    if (this.#extended) refuseArchive('There are two extended headers for one entry.')
    if (sizeBytes === 0 || sizeBytes > MAX_EXTENDED_BYTES) refuseArchive('An extended header has no acceptable size.')
    this.#extended = new Map()
    this.#expectBody(sizeBytes, content => {
      this.#extended = parseExtended(content)
    })
  }

  #readEntry(block: Buffer, flag: string, sizeInHeader: number): void {
    const type = TYPES[flag]
    if (!type) refuseArchive(`There is an entry of type ${quote(flag)}, which no backup has.`)
    const extended = this.#extended
    this.#extended = undefined
    const prefix = readText(block, 345, 155)
    const name = readText(block, 0, 100)
    const path = extended?.get('path') ?? (prefix === '' ? name : `${prefix}/${name}`)
    const target = extended?.get('linkpath') ?? readText(block, 157, 100)
    const size = extended?.get('size')
    const sizeBytes = size === undefined ? sizeInHeader : readDecimal(size)
    if ((type === 'link' || type === 'symlink') !== (target !== ''))
      refuseArchive(`${quote(path)} has a link's target without being one, or is a link without target.`)
    if (type !== 'file' && (sizeBytes !== 0 || sizeInHeader !== 0))
      refuseArchive(`${quote(path)} is no file and has content.`)
    const [deviceMajor, deviceMinor] = [readNumber(block, 329, 8), readNumber(block, 337, 8)]
    const receive = this.#visit({ path, type, target, sizeBytes, deviceMajor, deviceMinor })
    if (sizeBytes > 0) this.#expectBody(sizeBytes, receive)
    else receive?.(Buffer.alloc(0))
  }

  #expectBody(sizeBytes: number, receive: ((content: Buffer) => void) | undefined): void {
    this.#bodyLeft = sizeBytes
    this.#paddingLeft = (BLOCK - (sizeBytes % BLOCK)) % BLOCK
    this.#receive = receive
    this.#collected = receive && []
  }
}

/** Format, checksum and every number of a header, whether it is used or not. */
function checkBlock(block: Buffer): void {
  if (block.compare(MAGIC, 0, MAGIC.length, 257, 265) !== 0) refuseArchive('It is not a tar as the server writes them.')
  // As if its own field were spaces.
  let sum = 8 * SPACE
  for (let i = 0; i < BLOCK; i++) sum += block[i] as number
  for (let i = 148; i < 156; i++) sum -= block[i] as number
  if (parseOctal(block, 148, 7) !== sum || block[155] !== SPACE) refuseArchive('A header of the tar is damaged.')
  for (const [at, length] of NUMBERS_NOT_USED) readNumber(block, at, length)
  for (const at of [265, 297]) readText(block, at, 32)
  if (!isZero(block, 500, 12)) refuseArchive('A header of the tar has bytes where none belong.')
}

function readNumber(block: Buffer, at: number, length: number): number {
  const value = parseOctal(block, at, length)
  if (Number.isNaN(value)) refuseArchive('A header of the tar has a number in a form the server does not write.')
  return value
}

/** Octal digits and one NUL, or else NaN. */
function parseOctal(block: Buffer, at: number, length: number): number {
  const end = at + length - 1
  let value = 0
  for (let i = at; i < end; i++) {
    const digit = (block[i] as number) - ZERO
    if (digit < 0 || digit > 7) return NaN
    value = value * 8 + digit
  }
  return block[end] === 0 ? value : NaN
}

/** What lies behind the NUL is read by some and not by others. */
function readText(block: Buffer, at: number, length: number): string {
  let end = at
  while (end < at + length && block[end] !== 0) end++
  if (!isZero(block, end, at + length - end)) refuseArchive('A header of the tar hides bytes behind a name.')
  return end === at ? '' : block.toString('latin1', at, end)
}

function readDecimal(text: string): number {
  const value = Number(text)
  if (!/^(0|[1-9][0-9]*)$/.test(text) || !Number.isSafeInteger(value))
    refuseArchive('An extended header has a bad size.')
  return value
}

/** The records `LENGTH KEY=VALUE\n` of pax(1), each key at most once. Values may hold any byte, also line ends. */
function parseExtended(content: Buffer): Map<string, string> {
  const text = content.toString('latin1')
  const records = new Map<string, string>()
  for (let at = 0; at < text.length;) {
    const space = text.indexOf(' ', at)
    const lengthText = text.slice(at, space)
    const end = at + Number(lengthText)
    const equals = text.indexOf('=', space)
    const isWhole = /^[1-9][0-9]{0,6}$/.test(lengthText) && end <= text.length && text[end - 1] === '\n'
    if (!isWhole || equals <= space + 1 || equals >= end - 1) refuseArchive('An extended header is malformed.')
    const [key, value] = [text.slice(space + 1, equals), text.slice(equals + 1, end - 1)]
    if (records.has(key)) refuseArchive(`An extended header has ${quote(key)} twice.`)
    if (EXTENDED_KEYS.has(key)) {
      if (value === '' || value.includes('\0')) refuseArchive(`An extended header has a bad ${key}.`)
    } else if (!EXTENDED_PREFIXES.some(prefix => key.startsWith(prefix) && key.length > prefix.length)) {
      refuseArchive(`An extended header has ${quote(key)}, which no backup has.`)
    }
    records.set(key, value)
    at = end
  }
  return records
}

/** In a loop: of so few bytes, a call into Node's own code would take longer. */
function isZero(buffer: Buffer, at: number, length: number): boolean {
  const end = at + length
  let i = at
  while (i < end && buffer[i] === 0) i++
  return i === end
}
