import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { knownHoles } from '../../src/lxd/known-holes.ts'
import { compareVersions, isSupported, parseVersion, type ServerInfo } from '../../src/lxd/server.ts'

const idsOf = (kind: 'lxd' | 'incus', version: string) => knownHoles({ kind, version }).map(hole => hole.id)

describe('knownHoles', () => {
  test.each([
    ['lxd', '5.0.2', ['CVE-2026-66898', 'CVE-2026-34178', 'CVE-2026-9640', 'CVE-2026-63294', 'CVE-2026-66897']],
    ['lxd', '5.0.6', ['CVE-2026-34178', 'CVE-2026-9640', 'CVE-2026-63294', 'CVE-2026-66897']],
    ['lxd', '5.0.7', ['CVE-2026-63294', 'CVE-2026-66897']],
    ['lxd', '5.0.9', []],
    ['lxd', '5.15', ['CVE-2026-66898', 'CVE-2026-34178', 'CVE-2026-9640', 'CVE-2026-63294', 'CVE-2026-66897']],
    ['lxd', '5.21.6', ['CVE-2026-66897']],
    ['lxd', '5.21.7 LTS', []],
    ['lxd', '6.8', ['CVE-2026-9640', 'CVE-2026-63294', 'CVE-2026-66897']],
    ['lxd', '6.10', []],
    ['lxd', '7.1', []],
    ['incus', '6.0.4', ['CVE-2026-23954', 'CVE-2026-48749', 'CVE-2026-48752', 'CVE-2026-63125']],
    ['incus', '6.0.6', ['CVE-2026-48749', 'CVE-2026-48752', 'CVE-2026-63125']],
    ['incus', '6.20', ['CVE-2026-23954', 'CVE-2026-48749', 'CVE-2026-48752', 'CVE-2026-63125']],
    ['incus', '7.2', ['CVE-2026-63125']],
    ['incus', '7.3', []]
  ] as const)('of %s %s', (kind, version, ids) => {
    expect(idsOf(kind, version)).toEqual(ids)
  })

  test('names the next version of the same line that is mended', () => {
    const fixOf = (version: string) =>
      knownHoles({ kind: 'lxd', version }).find(hole => hole.id === 'CVE-2026-34178')?.fixedIn
    expect([fixOf('5.0.2'), fixOf('5.21.0'), fixOf('6.1')]).toEqual(['5.0.7', '5.21.5', '6.8.0'])
  })

  test('the last of them is mended last', () => {
    for (const [kind, version, last] of [
      ['lxd', '5.0.2', '5.0.9'],
      ['lxd', '6.1', '6.10.0'],
      ['incus', '6.0.4', '7.3.0']
    ] as const)
      expect(knownHoles({ kind, version }).at(-1)?.fixedIn).toBe(last)
  })

  test('are all told of in docs/operations.md', () => {
    const text = readFileSync(join(import.meta.dirname, '../../docs/operations.md'), 'utf8')
    for (const kind of ['lxd', 'incus'] as const)
      for (const { id, fixedIn } of knownHoles({ kind, version: '' }))
        expect(text).toMatch(new RegExp(`\\| \`${id}\` .*[ |]${fixedIn.replaceAll('.', '\\.')} +\\|\n`))
  })

  test('a version nobody can read has them all', () => {
    expect(idsOf('lxd', 'edge-b0ff1a2')).toHaveLength(5)
  })
})

test('versions are compared by their numbers', () => {
  expect(parseVersion('5.21.4 LTS')).toEqual([5, 21, 4])
  expect(parseVersion('6.7')).toEqual([6, 7, 0])
  expect(parseVersion('1.2.3.4')).toBeUndefined()
  expect(parseVersion('latest')).toBeUndefined()
  expect(compareVersions([5, 9, 0], [5, 10, 0])).toBeLessThan(0)
  expect(compareVersions([6, 0, 0], [5, 21, 9])).toBeGreaterThan(0)
})

test.each([
  ['lxd', '5.0.2', true],
  ['lxd', '4.24', false],
  ['incus', '6.0.4', true],
  ['incus', '0.7', false],
  ['lxd', '', false]
] as const)('%s %s is supported: %s', (kind, version, supported) => {
  expect(isSupported({ kind, version } as ServerInfo)).toBe(supported)
})
