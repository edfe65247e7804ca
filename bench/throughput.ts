import { run } from '../test/rig.ts'
import { type Bench, median, must, time } from './bench.ts'
import { members } from './members.ts'

const ROUNDS = 5
const SIZE = 2 ** 30

export const throughput: Bench = {
  name: 'throughput',
  claim: '1 GiB out of a container through the fixed port (nat), against the same to its own address, median',
  unit: 'MiB/s',
  limit: { atLeast: 0.95 },
  async measure(rig) {
    const [alice] = await members(rig, 1)
    const status = must(await alice!.manage('status --json')).stdout
    const { addresses, forwarding } = JSON.parse(status) as { addresses: string[]; forwarding: string }
    if (forwarding !== 'nat') throw new Error(`the fixed port is carried by ${forwarding}, not nat`)
    const [address] = addresses.filter(each => each.includes('.'))
    const discard = (argv: string[]) => run(['sh', '-c', '"$@" > /dev/null', 'sh', ...argv], { timeoutMs: 300_000 })
    const send = `head -c ${SIZE} /dev/zero`
    const client = ['ssh', '-F', alice!.sshConfig]
    // The same key and host key at the other address.
    const direct = ['-o', `HostName=${address}`, '-o', 'Port=22', '-o', 'StrictHostKeyChecking=no']
    must(await run(['ip', 'route', 'replace', `${address}/32`, 'via', rig.lab.nodeAddress]))
    try {
      const [berth, peer]: [number[], number[]] = [[], []]
      for (let round = 0; round < ROUNDS; round++) {
        berth.push(rate(await time(() => discard([...client, 'gpu1', send]))))
        peer.push(
          rate(await time(() => discard([...client, ...direct, '-o', 'UserKnownHostsFile=/dev/null', 'gpu1', send])))
        )
      }
      return { berth: median(berth), peer: median(peer) }
    } finally {
      must(await run(['ip', 'route', 'del', `${address}/32`]))
    }
  }
}

const rate = (tookMs: number) => SIZE / 2 ** 20 / (tookMs / 1000)
