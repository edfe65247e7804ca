import { expect, it } from 'vitest'
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
