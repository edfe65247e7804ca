import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { run, type Member, type Ran, type Rig } from '../test/rig.ts'
import { type Bench, median, must, time } from './bench.ts'
import { members } from './members.ts'
import { familyKiB } from './memory.ts'

const PATIENCE_MS = 30 * 60_000
const SETTLE_MS = 3000
/** Enough for each side to have one that the host's other guests leave alone: they add up to two fifths, and take nothing away. */
const RECOVER_ROUNDS = 7

/** Where the bench's archives go; named in its berth.yaml. */
export const SNAPSHOT_DIRECTORY = '/var/tmp/berth-bench-nas'

interface Snapshot {
  readonly name: string
  readonly path: string
}

export const snapshot: Bench = {
  name: 'snapshot',
  claim:
    '`snapshot` of a container of about 1 GiB to its end, against `lxc export` with its defaults: how many times faster',
  unit: 'a day',
  limit: { atLeast: 3.5 },
  async measure(rig) {
    const alice = await stoppedMember(rig, 800)
    const token = await ask(alice, 'snapshot')
    const berthMs = await time(() => alice.manage(`snapshot ${token}`, { timeoutMs: PATIENCE_MS }))
    const file = join(rig.directory, 'peer.tar.gz')
    await settle(rig)
    const peerMs = await time(() => lxc(rig, 'export', alice.name, file))
    await run([...rig.lab.enterAll, 'rm', file])
    await removeAll(alice)
    return { berth: 86_400_000 / berthMs, peer: 86_400_000 / peerMs, others: { berthMs, peerMs } }
  }
}

export const downtime: Bench = {
  name: 'downtime',
  claim: 'stop → snapshot → started again and logged in, for a member who goes on at once, against 10 s',
  unit: 'ms',
  limit: { atMost: 1 },
  async measure(rig) {
    const alice = await stoppedMember(rig, 800)
    must(await alice.manage())
    // The first of all snapshots would be announced by a token that has to be read: here it is asked for in between.
    const startedAtMs = performance.now()
    must(await alice.manage('stop'))
    const taking = spawn('ssh', ['-F', alice.sshConfig, 'gpu1-manage', 'snapshot', await ask(alice, 'snapshot')])
    const ended = once(taking, 'close')
    await new Promise<void>(resolve => {
      let said = ''
      taking.stdout.on('data', (data: Buffer) => (said += data.toString()).includes('Copied') && resolve())
    })
    must(await alice.manage())
    must(await alice.login('true'))
    const tookMs = performance.now() - startedAtMs
    await ended
    await removeAll(alice)
    return { berth: tookMs, peer: 10_000 }
  }
}

export const recover: Bench = {
  name: 'recover',
  claim: '`recover` of that archive, inspection included, against `lxc import` of the same file, the fastest of seven',
  unit: 'ms',
  limit: { atMost: 1.25 },
  async measure(rig, say) {
    const alice = await stoppedMember(rig, 800)
    must(await alice.manage(`snapshot ${await ask(alice, 'snapshot')}`, { timeoutMs: PATIENCE_MS }))
    const [{ path }] = (await list(alice)) as [Snapshot]
    const [berthMs, peerMs]: [number[], number[]] = [[], []]
    for (let round = 0; round < RECOVER_ROUNDS; round++) {
      await settle(rig)
      peerMs.push(await time(() => lxc(rig, 'import', path, 'peer')))
      must(await lxc(rig, 'delete', 'peer'))
      const token = await ask(alice, 'recover')
      await settle(rig)
      berthMs.push(await time(() => alice.manage(`recover ${token} ${path}`, { timeoutMs: PATIENCE_MS })))
      say(`berth: ${Math.round(berthMs.at(-1)!)} ms, lxc: ${Math.round(peerMs.at(-1)!)} ms`)
    }
    await removeAll(alice)
    return {
      berth: Math.min(...berthMs),
      peer: Math.min(...peerMs),
      others: { berthMedian: median(berthMs), peerMedian: median(peerMs) }
    }
  }
}

export const streamMemory: Bench = {
  name: 'stream-memory',
  claim:
    'growth of all processes of berth (PSS at its peak) while the 5 GiB of a container go out and come back, against 64 MiB',
  unit: 'MiB',
  limit: { atMost: 1 },
  async measure(rig) {
    const alice = await stoppedMember(rig, 4800)
    // One that runs, with its process for archives, and has handled none yet: what an earlier bench made it grow would not be seen.
    await rig.end()
    await rig.serve()
    await list(alice)
    await sleep(SETTLE_MS)
    const before = familyKiB(rig.pid)
    let peak = before
    const watch = setInterval(() => (peak = Math.max(peak, familyKiB(rig.pid))), 100)
    try {
      must(await alice.manage(`snapshot ${await ask(alice, 'snapshot')}`, { timeoutMs: PATIENCE_MS }))
      const [{ path }] = (await list(alice)) as [Snapshot]
      must(await alice.manage(`recover ${await ask(alice, 'recover')} ${path}`, { timeoutMs: PATIENCE_MS }))
    } finally {
      clearInterval(watch)
    }
    await removeAll(alice)
    return { berth: (peak - before) / 1024, peer: 64 }
  }
}

/**
 * A member whose container holds about so much more: a fifth of it random, the rest the system's own programs and texts, in turn as
 * the many small files they are and as a tar.
 */
async function stoppedMember(rig: Rig, mebibytes: number): Promise<Member> {
  mkdirSync(SNAPSHOT_DIRECTORY, { recursive: true, mode: 0o700 })
  const [alice] = (await members(rig, 1)) as [Member]
  const random = `head -c ${Math.round(mebibytes / 5)}M /dev/urandom > /home/random`
  const isShort = `[ $(du -sm /home | cut -f1) -lt ${mebibytes} ]`
  const copies = `while ${isShort}; do n=$((n+1)); cp -a /usr /home/usr-$n; ${isShort} && tar -cf /home/usr-$n.tar /usr; done`
  must(await alice.login(`sudo sh -c '${random}; ${copies}; sync'`, { timeoutMs: PATIENCE_MS }))
  must(await alice.manage('stop'))
  return alice
}

async function ask(member: Member, verb: string): Promise<string> {
  return /\b[0-9A-Z]{26}\b/.exec(must(await member.manage(verb)).stdout)?.[0] ?? ''
}

const list = async (member: Member) => JSON.parse(must(await member.manage('snapshots --json')).stdout) as Snapshot[]

async function removeAll(member: Member): Promise<void> {
  for (const { name } of await list(member)) {
    const token = await ask(member, `snapshots remove ${name}`)
    must(await member.manage(`snapshots remove ${name} ${token}`))
  }
}

/** btrfs goes on deleting for seconds after it has said that it has: neither side's time is to hold what the other threw away. */
async function settle({ lab }: Rig): Promise<void> {
  must(
    await run([...lab.enterAll, 'btrfs', 'subvolume', 'sync', join(lab.lxdDir, 'storage-pools', lab.pool)], {
      timeoutMs: PATIENCE_MS
    })
  )
  must(await run(['sync']))
}

/** As `rig.lxc`, with the patience that archives take. */
function lxc(rig: Rig, ...words: string[]): Promise<Ran> {
  const environment = ['env', `LXD_DIR=${rig.lab.lxdDir}`]
  return run([...rig.lab.enterAll, ...environment, 'lxc', '--project', rig.project, ...words], {
    timeoutMs: PATIENCE_MS
  })
}

export const removeSnapshotDirectory = () => rmSync(SNAPSHOT_DIRECTORY, { recursive: true, force: true })
