import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Moment } from './kill-proxy.ts'
import { SERVER, Ship, type Deed } from './ship.ts'

const ROUNDS = Number(process.env['BERTH_CRASH_ROUNDS'] ?? 50)
const HOURS = 3_600_000
const say = (line: string) => process.stdout.write(`${line}\n`)

let ship: Ship
beforeAll(async () => {
  ship = await Ship.launch({ server: SERVER })
})
afterAll(() => ship[Symbol.asyncDispose]())

/** `kill -9` of berth, and what systemd does then. */
async function restart(): Promise<void> {
  await ship.rig.end('SIGKILL')
  await ship.rig.serve()
}

describe.each<Deed>(['rebuild', 'recover', 'undo', 'snapshot'])('berth killed at each call of %s', deed => {
  it.each<Moment>(['before', 'after'])(
    '%s it',
    async moment => {
      const outcomes: string[] = []
      for (let at = 1; ; at++) {
        const line = await ship.prepare(deed)
        ship.proxy.arm(moment, at, () => process.kill(ship.rig.pid, 'SIGKILL'))
        const ran = await ship.alice.manage(line)
        const isThrough = ship.proxy.disarm()
        const struck = ship.proxy.changes[at - 1]
        if (!isThrough) await restart()
        const outcome = await ship.check(deed)
        if (isThrough) {
          expect(ran, ran.stderr).toMatchObject({ code: 0 })
          expect(outcome).toBe(deed === 'snapshot' ? 'old' : 'new')
          break
        }
        outcomes.push(`${outcome} ${struck}`)
        say(`${deed}: killed ${moment} ${at} ${struck}: ${outcome}`)
      }
      // The copy, its archive, its end; or the two renames at the least.
      expect(outcomes.length).toBeGreaterThanOrEqual(3)
      const seen = new Set(outcomes.map(outcome => outcome.slice(0, 3)))
      // An undo makes nothing first: from its first call on it is a swap, which is gone on with.
      if (deed !== 'snapshot') expect(seen).toEqual(new Set(deed === 'undo' ? ['new'] : ['old', 'new']))
    },
    HOURS
  )
})

describe('berth killed at any moment', () => {
  it(
    `${ROUNDS} times`,
    async () => {
      for (let round = 1; round <= ROUNDS; round++) {
        const deed = (['rebuild', 'recover', 'undo', 'snapshot'] as const)[round % 4] as Deed
        const delayMs = Math.random() ** 2 * (deed === 'undo' ? 1500 : 8000)
        const line = await ship.prepare(deed)
        const typed = spawn('ssh', ['-F', ship.alice.sshConfig, 'gpu1-manage', line], { stdio: 'ignore' })
        const ended = once(typed, 'exit')
        await sleep(delayMs)
        await restart()
        await ended
        say(`round ${round}: ${deed} killed after ${Math.round(delayMs)} ms: ${await ship.check(deed)}`)
      }
    },
    HOURS
  )
})

describe('the connection dropped in the middle', () => {
  it.each<Deed>(['rebuild', 'recover', 'snapshot'])(
    'of %s: it goes on',
    async deed => {
      const typed = spawn('ssh', ['-F', ship.alice.sshConfig, 'gpu1-manage', await ship.prepare(deed)], {
        stdio: ['ignore', 'ignore', 'pipe']
      })
      await once(typed.stderr, 'data')
      typed.kill('SIGKILL')
      await once(typed, 'exit')
      expect(await ship.check(deed)).toBe(deed === 'snapshot' ? 'old' : 'new')
    },
    HOURS
  )
})
