import { run } from '../test/rig.ts'
import { type Bench, median, time } from './bench.ts'
import { members } from './members.ts'
import { PeerSshd } from './peer-sshd.ts'

const ROUNDS = 25

export const status: Bench = {
  name: 'status',
  claim: '`ssh gpu1-manage status` against `ssh host true` with sshd, median',
  unit: 'ms',
  limit: { atMost: 0.3 },
  async measure(rig) {
    const [alice] = await members(rig, 1)
    await using sshd = await PeerSshd.start()
    const [berth, peer]: [number[], number[]] = [[], []]
    // Turn by turn, so that whatever else the machine does meets both.
    for (let round = 0; round < ROUNDS; round++) {
      berth.push(await time(() => alice!.manage('status')))
      peer.push(await time(() => run(sshd.ssh(['true']))))
    }
    return { berth: median(berth), peer: median(peer) }
  }
}
