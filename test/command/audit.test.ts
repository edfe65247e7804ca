import { describe, expect, it } from 'vitest'
import { maskWords } from '../../src/command/audit.ts'

describe('maskWords', () => {
  it.each([
    [['enroll', 'alice', 'anything'], [1], 'enroll alice ***'],
    [['enroll', '7K2M-9XQ4-ABCD-WXYZ', 'alice'], [1], 'enroll *** ***'],
    [['status', 'x=7k2m-9xq4-abcd-wxyz;'], [], 'status "x=***;"'],
    [['frobnicate', '7K2M9XQ4ABCDWXYZ'], [], 'frobnicate ***'],
    [['recover', '0123456789ABCDEFGHJKMNPQRS', 'alice/one.tar'], [], 'recover *** alice/one.tar'],
    [['shell', '--', 'echo', 'a b', '\u001b[2J'], [], 'shell -- echo "a b" "\\u001b[2J"'],
    [['status'], [], 'status']
  ])('%j', (words, positions, shown) => {
    expect(maskWords(words, positions)).toBe(shown)
  })
})
