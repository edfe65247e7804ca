import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Audit, maskWords } from '../../src/command/audit.ts'
import { openDatabase } from '../../src/db/open.ts'

it('a command that ends after its line is forgotten changes no other line', () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-audit-'))
  const database = openDatabase(join(directory, 'berth.sqlite'))
  const audit = new Audit(database)
  const who = { session: 'x', login: 'alice', user: 'alice', fingerprint: undefined, address: '::1', node: 'gpu1' }
  const close = audit.open({ ...who, words: 'snapshot' })
  audit.forget(Date.now() + 1)
  audit.open({ ...who, words: 'help' })
  close(1, 'busy')
  expect(audit.list().find(({ words }) => words === 'help')?.exitCode).toBeUndefined()
  database.close()
  rmSync(directory, { recursive: true })
})

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
