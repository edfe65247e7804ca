import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../test/rig.ts'
import { type Bench, must, percentile } from './bench.ts'
import { members } from './members.ts'
import { PeerSshd } from './peer-sshd.ts'

const CLIENTS = 100
const CONTAINERS = 4
const ROUNDS = 5
const FORGETTING_MS = 3000
const PATIENCE_MS = 600_000

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
      crowds.push(await serve(index => ask(index).manageLine('status', from(index))))
      say(`berth: ${describe(crowds.at(-1)!)}`)
    }
    const berth = crowds.sort((one, other) => one.perSecond - other.perSecond)[Math.floor(ROUNDS / 2)]!
    const peer = await serve(index => sshd.ssh([`status ${ask(index).name}`], from(index)))
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

/**
 * Runs all clients at once, from a shell that tells when each has ended: Node takes 4 ms of processor time to start a program
 * and listen to it, on the very cores that are measured.
 */
async function serve(client: (index: number) => string[]): Promise<Served> {
  const clients = Array.from({ length: CLIENTS }, (_, index) => client(index).map(quote).join(' '))
  const script = [
    'echo "0 $EPOCHREALTIME"',
    ...clients.map(line => `{ ${line} >/dev/null; echo "$? $EPOCHREALTIME"; } &`),
    'wait'
  ].join('\n')
  const ran = must(await run(['bash', '-c', script], { timeoutMs: PATIENCE_MS, env: { LC_ALL: 'C' } }))
  const lines = ran.stdout.trim().split('\n')
  const failed = lines.filter(line => !line.startsWith('0 '))
  if (failed.length > 0 || lines.length !== CLIENTS + 1)
    throw new Error(`${failed.length} clients failed: ${ran.stderr}`)
  const [startedAtS = 0, ...endedAtS] = lines.map(line => Number(line.split(' ')[1]))
  const tookMs = endedAtS.map(atS => (atS - startedAtS) * 1000)
  return { perSecond: (CLIENTS * 1000) / Math.max(...tookMs), p99Ms: percentile(tookMs, 0.99) }
}

const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`

const describe = ({ perSecond, p99Ms }: Served) => `${perSecond.toFixed(1)} a second, p99 ${Math.round(p99Ms)} ms`
