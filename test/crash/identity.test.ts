import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { run, startRig } from '../rig.ts'
import { describeTree, makeTree, roundTimes } from '../snapshots/tree.ts'

const FILES = 100_000
const BIG_MEBIBYTES = 2048
const HOUR = 3_600_000

/** As test/commands/replace.test.ts does it with a small tree. */
it.each(['lxd', 'incus'] as const)(
  'a hundred thousand files and one of 2 GiB come back as they were, on %s',
  async server => {
    const nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
    const limits = { memory: '2GiB', processes: 500, disk: '8GiB' }
    await using rig = await startRig({ server, node: { limits }, config: { snapshots: { dir: nas } } })
    const alice = await rig.addRunningMember('alice')
    const timeoutMs = HOUR
    const inside = async (script: string) => {
      const ran = await run(['ssh', '-F', alice.sshConfig, 'gpu1', 'sudo sh'], { input: script, timeoutMs })
      expect(ran, ran.stderr).toMatchObject({ code: 0, stderr: '' })
      return roundTimes(ran.stdout).replaceAll(server === 'lxd' ? /^.* system\.posix_acl_.*\n/gm : /$^/g, '')
    }
    const confirmed = async (words: string, rest = '') => {
      const offered = await alice.manage(words)
      const token = /\b[0-9A-HJKMNP-TV-Z]{26}\b/.exec(offered.stdout)?.[0]
      const done = await alice.manage(`${words} ${token} ${rest}`, { timeoutMs })
      expect(done, done.stderr).toMatchObject({ code: 0 })
      return done.stdout
    }
    await inside(makeTree(FILES, BIG_MEBIBYTES))
    const before = await inside(describeTree)
    await alice.manage('stop')
    const archive = /\S+\.tar\.zst/.exec(await confirmed('snapshot'))?.[0]
    await confirmed('rebuild', 'debian-12')
    await confirmed('recover', archive)
    expect(await alice.manage()).toMatchObject({ code: 0 })
    expect(await inside(describeTree)).toBe(before)
    rmSync(nas, { recursive: true })
  },
  HOUR
)
