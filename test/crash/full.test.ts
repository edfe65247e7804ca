import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, stopServer } from '../lab/server.ts'
import { run, type Rig } from '../rig.ts'
import { SERVER, Ship, type Deed } from './ship.ts'

const HOURS = 3_600_000
const POOL = 'small'
const POOL_BYTES = 3 * 2 ** 30
const say = (line: string) => process.stdout.write(`${line}\n`)

/** Where the server's state is, as its own mounts have it. */
const stateOf = ({ lab }: Rig) => (lab.kind === 'lxd' ? lab.lxdDir : '/var/lib/incus')
const inside = async ({ lab }: Rig, script: string) => {
  const ran = await run([...lab.enterAll, 'sh', '-c', script])
  expect(ran, ran.stderr).toMatchObject({ code: 0 })
}

/** All that is left, in pieces that get smaller; nothing has to be written for it. */
const fill = (path: string) =>
  `n=0; for size in 256M 64M 16M 4M 1M 64K; do while fallocate -l $size ${path}-$n 2>/dev/null; do n=$((n+1)); done; done; sync`

describe.each(['btrfs', 'dir'] as const)('a pool on %s that runs full', driver => {
  let ship: Ship
  const filler = () => `${stateOf(ship.rig)}/storage-pools/${POOL}/filler`

  beforeAll(async () => {
    ship = await Ship.launch({ server: SERVER, ownLab: true, node: { storagePool: POOL } }, async rig => {
      const config = [`size=${POOL_BYTES}`]
      if (driver === 'dir') {
        // Not within the server's own directory, which it refuses; it goes with the lab.
        const at = rig.lab.kind === 'lxd' ? join(dirname(rig.lab.lxdDir), 'small') : '/run/small'
        await inside(
          rig,
          `mkdir ${at} && truncate -s ${POOL_BYTES} ${at}.disk && mkfs.ext4 -q ${at}.disk && mount -o loop ${at}.disk ${at} && rmdir ${at}/lost+found`
        )
        config.splice(0, 1, `source=${at}`)
      }
      const made = await rig.lxc('storage', 'create', POOL, driver, ...config)
      expect(made, made.stderr).toMatchObject({ code: 0 })
    })
  })
  afterAll(() => ship[Symbol.asyncDispose]())

  it.each<[Deed, string, number]>([
    ['snapshot', 'before the copy', 0],
    ['snapshot', 'in the middle of the copy', 0.7],
    ['recover', 'before the import', 0],
    ['recover', 'in the middle of the import', 1.5],
    ['rebuild', 'before the creation', 0],
    ['rebuild', 'in the middle of the creation', 0.7],
    ['undo', 'before the swap', 0]
  ])(
    'in %s, %s: all or nothing of it is done',
    async (deed, _moment, delayS) => {
      const line = await ship.prepare(deed)
      let filling: Promise<void> | undefined
      // From the first change on: what was looked at before had room.
      ship.proxy.hold(1, async () => {
        filling = inside(ship.rig, `sleep ${delayS}; ${fill(filler())}`)
        if (delayS === 0) await filling
      })
      const { code, stderr } = await ship.alice.manage(line)
      ship.proxy.disarm()
      await filling
      await inside(ship.rig, `rm -f ${filler()}-*; sync`)
      expect([0, 73], stderr).toContain(code)
      const outcome = await ship.check(deed)
      say(
        `${driver}: ${deed} on a pool that filled after ${delayS} s: exit ${code}, ${outcome}: ${stderr.trim().split('\n').at(-1)}`
      )
      if (deed !== 'snapshot') expect(outcome).toBe(code === 0 ? 'new' : 'old')
    },
    HOURS
  )
})

describe("the server's own directory runs full", () => {
  let ship: Ship
  beforeAll(async () => {
    ship = await Ship.launch({ server: SERVER, ownLab: true })
  })
  afterAll(() => ship[Symbol.asyncDispose]())

  it.each<Deed>(['snapshot', 'recover'])(
    'in %s: it is refused, and nothing is left',
    async deed => {
      const spool = `${stateOf(ship.rig)}/backups`
      const line = await ship.prepare(deed)
      ship.proxy.hold(1, () =>
        inside(ship.rig, `mount -t tmpfs -o size=100M spool ${spool} && mkdir -p ${spool}/instances`)
      )
      const { code, stderr } = await ship.alice.manage(line, { timeoutMs: HOURS })
      ship.proxy.disarm()
      await inside(ship.rig, `umount -l ${spool}`)
      say(`${deed} with a full spool: exit ${code}: ${stderr.trim().split('\n').slice(-2).join(' / ')}`)
      expect(code, stderr).toBe(73)
      // LXD 5.0.2 waits for ever in a backup that found no room: only its restart ends that.
      await stopServer(ship.rig.lab, 'SIGKILL')
      await startServer(ship.rig.lab)
      expect(await ship.check(deed)).toBe('old')
    },
    HOURS
  )
})
