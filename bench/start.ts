import { connect } from 'node:net'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, median, must } from './bench.ts'
import { members } from './members.ts'

const ROUNDS = 7

export const start: Bench = {
  name: 'start',
  claim: '`ssh gpu1-manage` until the first login succeeds, against `lxc start` and waiting for the same sshd, median',
  unit: 'ms',
  limit: { atMost: 1.15 },
  async measure(rig) {
    const [alice] = await members(rig, 1)
    const { fixedPort } = JSON.parse(must(await alice!.manage('status --json')).stdout) as { fixedPort: number }
    const [berth, peer]: [number[], number[]] = [[], []]
    for (let round = 0; round < ROUNDS; round++) {
      must(await alice!.manage('stop'))
      const berthAtMs = performance.now()
      must(await alice!.manage())
      must(await alice!.login('true'))
      berth.push(performance.now() - berthAtMs)

      must(await alice!.manage('stop'))
      const peerAtMs = performance.now()
      must(await rig.lxc('start', alice!.name))
      while (!(await greets(rig.lab.nodeAddress, fixedPort))) await sleep(20)
      must(await alice!.login('true'))
      peer.push(performance.now() - peerAtMs)
    }
    return { berth: median(berth), peer: median(peer) }
  }
}

/** Whether an SSH server greets at this port within half a second (RFC 4253 section 4.2). */
function greets(host: string, port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect({ host, port, timeout: 500 })
    const end = (greeted: boolean) => {
      socket.destroy()
      resolve(greeted)
    }
    socket.once('data', data => end(data.toString('latin1').startsWith('SSH-')))
    socket.once('error', () => end(false)).once('timeout', () => end(false))
  })
}
