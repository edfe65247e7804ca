/** Addresses as numbers from 0 to 2³²-1, both ends included. */
export interface Range {
  readonly first: number
  readonly last: number
}

/** Dotted text → number. @throws RangeError for anything else */
export function parseIpv4(text: string): number {
  const bytes = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)?.slice(1).map(Number)
  if (!bytes || bytes.some(byte => byte > 255)) throw new RangeError(`not an IPv4 address: ${text}`)
  return bytes.reduce((sum, byte) => sum * 256 + byte, 0)
}

export function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map(shift => (address >>> shift) & 255).join('.')
}

/** `10.0.0.7` or `10.0.0.7/24` → all addresses of that network. */
export function parseNetwork(text: string): Range {
  const [address = '', bits = '32'] = text.split('/')
  const size = 2 ** (32 - Number(bits))
  const first = Math.floor(parseIpv4(address) / size) * size
  return { first, last: first + size - 1 }
}

/** As LXD's ACLs want it: one address, or `first-last`. */
export function formatRange({ first, last }: Range): string {
  return first === last ? formatIpv4(first) : `${formatIpv4(first)}-${formatIpv4(last)}`
}

export const contains = ({ first, last }: Range, address: number): boolean => first <= address && address <= last

/** The same addresses in the fewest ranges, in order. */
export function mergeRanges(ranges: readonly Range[]): Range[] {
  const merged: Range[] = []
  for (const range of ranges.toSorted((one, other) => one.first - other.first)) {
    const previous = merged.at(-1)
    if (previous && range.first <= previous.last + 1) {
      merged[merged.length - 1] = { first: previous.first, last: Math.max(previous.last, range.last) }
    } else merged.push(range)
  }
  return merged
}

/** `ranges` without one address. */
export function withoutAddress(ranges: readonly Range[], address: number): Range[] {
  return ranges.flatMap(range =>
    contains(range, address)
      ? [
          { first: range.first, last: address - 1 },
          { first: address + 1, last: range.last }
        ].filter(({ first, last }) => first <= last)
      : [range]
  )
}
