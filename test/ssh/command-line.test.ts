import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { UserError } from '../../src/errors.ts'
import { splitCommandLine } from '../../src/ssh/command-line.ts'

test.each<[string, string[]]>([
  ['', []],
  ['   ', []],
  ['stop', ['stop']],
  ['  keys   remove  SHA256:abc/+= ', ['keys', 'remove', 'SHA256:abc/+=']],
  [`say 'a b' "c d" e\\ f`, ['say', 'a b', 'c d', 'e f']],
  [`say '' ""`, ['say', '', '']],
  [`a'b'"c"d`, ['abcd']],
  [`'a;b|c&d$(e)\`f\`<g>'`, ['a;b|c&d$(e)`f`<g>']],
  [`"a;b|c&d(e)<g>" \\; \\$HOME "\\$x"`, ['a;b|c&d(e)<g>', ';', '$HOME', '$x']],
  [`"a\\b\\"c\\\\"`, ['a\\b"c\\']],
  [`'it'\\''s'`, ["it's"]],
  ['shell -- sh -c "echo hi; id"', ['shell', '--', 'sh', '-c', 'echo hi; id']],
  [
    '--since=2026-01-01 *.tar ~ # {a,b} [x] ? ! =',
    ['--since=2026-01-01', '*.tar', '~', '#', '{a,b}', '[x]', '?', '!', '=']
  ],
  ['名前 ünïcode 👍', ['名前', 'ünïcode', '👍']]
])('%j', (line, words) => {
  expect(splitCommandLine(line)).toEqual(words)
})

test.each([
  'a;b',
  'a&',
  'a|b',
  'a<b',
  'a>b',
  '(a)',
  'a`b`',
  '$a',
  '$(a)',
  '"$a"',
  '"`a`"',
  `$'a'`,
  `$"a"`,
  'a\nb',
  'a\tb',
  'a\u0000b',
  'a\u007Fb',
  'a\u0085b',
  'a\u2028b',
  'a\u200Bb',
  'a\u202Eb',
  'a\uFFFDb',
  'a\uE000b',
  '\uD800',
  "'a",
  '"a',
  '"a\\"',
  'a\\',
  'x'.repeat(4097),
  'ä'.repeat(2049)
])('%j is refused', line => {
  expect(() => splitCommandLine(line)).toThrow(expect.objectContaining({ reason: 'command-line-refused' }))
})

test('words are what sh makes of the same line, where they are taken at all', () => {
  const alphabet = [...Array.from(`ab '"\\  -=/.,:@%+`), '\\$', '\\;', "'$;'", '";|"']
  const pick = () => alphabet[Math.floor(Math.random() * alphabet.length)]
  const lines = Array.from({ length: 5000 }, () => Array.from({ length: Math.ceil(Math.random() * 14) }, pick).join(''))
  const taken = lines.map(line => ({ line, words: attempt(line) })).filter(({ words }) => words !== undefined)
  const script = taken.map(({ line }) => `printf '%s\\0' x ${line}; printf '\\1'`).join('\n')
  const shell = spawnSync('sh', [], { input: `set -f\n${script}\n`, encoding: 'utf8', maxBuffer: 2 ** 26 })
  expect(shell.stderr).toBe('')
  const theirs = shell.stdout.split('\u0001')
  expect(taken.length).toBeGreaterThan(500)
  for (const [index, { line, words }] of taken.entries()) {
    expect([line, theirs[index]]).toEqual([line, ['x', ...(words ?? []), ''].join('\0')])
  }
})

function attempt(line: string): string[] | undefined {
  try {
    return splitCommandLine(line)
  } catch (error) {
    if (error instanceof UserError) return undefined
    throw error
  }
}
