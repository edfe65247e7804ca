import { describe, expect, it } from 'vitest'
import { formatBytes, formatDuration, parseSeconds } from '../../src/command/units.ts'

describe('units', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1536, '1.5 KiB'],
    [512 * 2 ** 20, '512 MiB'],
    [1.18 * 2 ** 30, '1.2 GiB']
  ])('%d bytes', (bytes, text) => expect(formatBytes(bytes)).toBe(text))

  it.each([
    [400, '0.4 s'],
    [59_600, '1 min'],
    [125_000, '2 min 5 s'],
    [3_600_000, '1 h'],
    [90_061_000, '1 d 1 h']
  ])('%d milliseconds', (milliseconds, text) => expect(formatDuration(milliseconds)).toBe(text))

  it('takes whole seconds only', () => {
    expect(parseSeconds('timeout', '30', 600)).toBe(30)
    for (const text of ['', '-1', '1e2', '601', '0x10', '1.5', ' 1'])
      expect(() => parseSeconds('timeout', text, 600)).toThrow(/whole seconds/)
  })
})
