import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { run } from '../rig.ts'
import { type Desk, openDesk } from './desk.ts'

/* What doctor finds without a node. */

interface Found {
  check: string
  level: string
  text: string
  mend?: string
}

async function examine(desk: Desk, check: string): Promise<Found[]> {
  const { reports } = await desk.json<{ reports: { findings: Found[] }[] }>('doctor')
  return reports.flatMap(({ findings }) => findings).filter(found => found.check === check)
}

it('warns of a name in web.admins that is nobody: it could be claimed', async () => {
  await using desk = await openDesk({ web: { admins: ['alice', 'boss'] } })
  expect(await desk.berth(['user', 'add', 'alice'])).toMatchObject({ code: 0 })
  expect(await examine(desk, 'web-admins')).toMatchObject([
    {
      level: 'warning',
      text: expect.stringContaining('boss') as string,
      mend: expect.stringContaining('berth invite boss') as string
    }
  ])
  expect(await desk.berth(['invite', 'boss'])).toMatchObject({ code: 0 })
  expect(await examine(desk, 'web-admins')).toMatchObject([{ level: 'ok' }])
})

it('ends when the NAS hangs, and says so', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-hung-'))
  const [disk, nas] = [join(directory, 'disk'), join(directory, 'nas')]
  mkdirSync(nas)
  expect(await run(['truncate', '-s', '32M', disk])).toMatchObject({ code: 0 })
  expect(await run(['mkfs.ext4', '-q', disk])).toMatchObject({ code: 0 })
  expect(await run(['mount', '-o', 'loop', disk, nas])).toMatchObject({ code: 0 })
  try {
    await using desk = await openDesk({ snapshots: { dir: nas } })
    // Whoever writes now waits, and cannot even be killed.
    expect(await run(['fsfreeze', '--freeze', nas])).toMatchObject({ code: 0 })
    const { code, stdout } = await desk.berth(['doctor'], { timeoutMs: 40_000 })
    expect(code).toBe(1)
    expect(stdout).toMatch(/FAULT +snapshots: .*has not answered for 10 s/)
  } finally {
    await run(['fsfreeze', '--unfreeze', nas])
    await expect.poll(() => run(['umount', nas]), { timeout: 10_000 }).toMatchObject({ code: 0 })
    rmSync(directory, { recursive: true })
  }
})
