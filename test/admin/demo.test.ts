import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run, type Ran } from '../rig.ts'
import { itLong } from '../suite.ts'

const BERTH = join(import.meta.dirname, '../../bin/berth')

interface Stage {
  config: string
  sshConfig: string
  identityFile: string
  user: string
  node: string
  managePort: number
  fixedPort: number
  lxdSocket: string
  pid: number
}

let kept: Ran
let stage: Stage

beforeAll(async () => {
  kept = await run([BERTH, 'demo', '--keep', '--json'], { timeoutMs: 600_000 })
  expect(kept).toMatchObject({ code: 0 })
  stage = JSON.parse(kept.stdout.trimEnd().split('\n').at(-1) as string) as Stage
})
afterAll(() => run([BERTH, 'demo', '--down']))

describe('berth demo', () => {
  it('shows each line of the main job and what comes back', () => {
    for (const line of [
      'berth invite alice',
      'ssh register@gpu1-manage alice',
      'ssh gpu1 id',
      'ssh gpu1-manage stop'
    ]) {
      expect(kept.stdout).toContain(`$ ${line}\n`)
    }
    expect(kept.stdout).toMatch(/enroll@\S+ alice [0-9A-Z-]+\n/)
    expect(kept.stdout).toContain('uid=1000(alice)')
    expect(kept.stdout).toMatch(/All \d+ lines did what they should/)
  })

  it('leaves with --keep what its JSON line says', async () => {
    expect(stage).toMatchObject({ user: 'alice', node: 'gpu1', managePort: 2222, fixedPort: 22000 })
    expect(await run(['ssh', '-F', stage.sshConfig, 'gpu1', 'id -un; sudo id -u'])).toMatchObject({
      code: 0,
      stdout: 'alice\n0\n'
    })
    expect(await run(['ssh', '-F', stage.sshConfig, 'gpu1-manage', 'status'])).toMatchObject({ code: 0 })
    expect(await run([BERTH, 'user', 'list', '--config', stage.config])).toMatchObject({ code: 0 })
    expect(existsSync(stage.lxdSocket)).toBe(true)
    expect(process.kill(stage.pid, 0)).toBe(true)
  })

  it('goes without a trace with --down', async () => {
    expect(await run([BERTH, 'demo', '--down'])).toMatchObject({ code: 0 })
    expect(existsSync(dirname(stage.config))).toBe(false)
    expect(existsSync(stage.lxdSocket)).toBe(false)
    // Ended, it stays in the list of processes until process 1 of the machine collects it.
    await expect.poll(() => existsSync(`/proc/${stage.pid}`), { timeout: 10_000 }).toBe(false)
  })

  itLong('takes everything down when a line does not do what it should', async () => {
    const broken = mkdtempSync(join(tmpdir(), 'berth-demo-'))
    writeFileSync(join(broken, 'ssh-keygen'), '#!/bin/sh\nexit 3\n', { mode: 0o755 })
    const env = { PATH: `${broken}:${process.env['PATH']}` }
    const failed = await run([BERTH, 'demo'], { env, timeoutMs: 300_000 })
    rmSync(broken, { recursive: true })
    expect(failed.code).toBe(1)
    expect(failed.stderr).toContain('`ssh-keygen -t ed25519` ended with exit code 3')
    expect(existsSync(dirname(stage.config))).toBe(false)
  })
})
