import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { findDaemon, startServer } from '../lab/server.ts'
import { SERVER, Ship, type Deed } from './ship.ts'

const HOURS = 3_600_000
const say = (line: string) => process.stdout.write(`${line}\n`)

let ship: Ship
beforeAll(async () => {
  ship = await Ship.launch({ server: SERVER, ownLab: true })
})
afterAll(() => ship[Symbol.asyncDispose]())

describe.each<Deed>(['rebuild', 'recover', 'undo', 'snapshot'])('LXD killed in the middle of %s, and back', deed => {
  it(
    'when it has just answered a call',
    async () => {
      for (let at = 1; ; at++) {
        const line = await ship.prepare(deed)
        const pid = (await findDaemon(ship.rig.lab)) as number
        ship.proxy.arm('after', at, () => process.kill(pid, 'SIGKILL'))
        const { code, stderr } = await ship.alice.manage(line)
        const isThrough = ship.proxy.disarm()
        if (isThrough) expect(code, stderr).toBe(0)
        // What is no answer is told at once, and nothing of it is berth's mistake.
        else expect([0, 69, 73, 75], stderr).toContain(code)
        if (!isThrough) await startServer(ship.rig.lab)
        const outcome = await ship.check(deed)
        if (isThrough) break
        say(`${deed}: LXD killed after ${at} ${ship.proxy.changes[at - 1]}: exit ${code}, ${outcome}`)
      }
    },
    HOURS
  )
})
