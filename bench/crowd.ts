import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Ran } from '../test/rig.ts'
import { run } from '../test/rig.ts'
import { type Bench, must, percentile } from './bench.ts'
import { members } from './members.ts'
import { PeerSshd } from './peer-sshd.ts'

const CLIENTS = 100
const CONTAINERS = 4
const ROUNDS = 5
const FORGETTING_MS = 3000

export const crowd: Bench = {
  name: 'crowd',
  claim: `${CLIENTS} clients at once asking for their status, against sshd with a ForceCommand script around \`lxc info\``,
  unit: 'served a second',
  limit: { atLeast: 10 },
  async measure(rig, say) {
    const askers = await members(rig, CONTAINERS)
    const environment = `env LXD_DIR=${rig.lab.lxdDir} LXD_CONF=${rig.directory}/lxd-conf`
    await using sshd = await PeerSshd.start(
      `exec ${environment} lxc info --project ${rig.project} "\${SSH_ORIGINAL_COMMAND#status }"`
    )
    const ask = (index: number) => askers[index % CONTAINERS]!
    // Members sit at machines of their own: each client has an address of its own.
    const from = (index: number) => ['-o', `BindAddress=127.0.1.${index + 1}`]
    must(await run(sshd.ssh([`status ${ask(0).name}`])))
    // One crowd is over in two seconds: the middle one of several, each come upon a berth that remembers nothing.
    const crowds: Served[] = []
    for (let round = 0; round < ROUNDS; round++) {
      await sleep(FORGETTING_MS)
      crowds.push(await serve(index => ask(index).manage('status', { options: from(index) })))
      say(`berth: ${describe(crowds.at(-1)!)}`)
    }
    const berth = crowds.sort((one, other) => one.perSecond - other.perSecond)[Math.floor(ROUNDS / 2)]!
    const peer = await serve(index => run(sshd.ssh([`status ${ask(index).name}`], from(index)), { timeoutMs: 600_000 }))
    say(`sshd:  ${describe(peer)}`)
    return {
      berth: berth.perSecond,
      peer: peer.perSecond,
      others: { berthP99Ms: berth.p99Ms, peerP99Ms: peer.p99Ms }
    }
  }
}

interface Served {
  perSecond: number
  p99Ms: number
}

async function serve(client: (index: number) => Promise<Ran>): Promise<Served> {
  const startedAtMs = performance.now()
  const tookMs = await Promise.all(
    Array.from({ length: CLIENTS }, async (_, index) => {
      must(await client(index))
      return performance.now() - startedAtMs
    })
  )
  return { perSecond: (CLIENTS * 1000) / Math.max(...tookMs), p99Ms: percentile(tookMs, 0.99) }
}

const describe = ({ perSecond, p99Ms }: Served) => `${perSecond.toFixed(1)} a second, p99 ${Math.round(p99Ms)} ms`
