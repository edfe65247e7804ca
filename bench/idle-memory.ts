import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import ssh2 from 'ssh2'
import type { Bench } from './bench.ts'
import { PeerSshd } from './peer-sshd.ts'

const BERTH_SESSIONS = 1000
const SSHD_SESSIONS = 50
const AT_ONCE = 8

interface Target {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly identity: string
}

export const idleMemory: Bench = {
  name: 'idle-memory',
  claim: 'memory (PSS) of a session that is logged in and does nothing, against sshd',
  unit: 'KiB',
  limit: { atMost: 1 / 20 },
  async measure(rig) {
    const bob = await rig.addMember('bob')
    const manage = { host: rig.lab.hostAddress, port: rig.managePort, username: 'bob', identity: bob.identity }
    // Once through before measuring: what is compiled and pooled at the first sessions belongs to none of them.
    await grow(BERTH_SESSIONS, manage, () => [rig.pid])
    const berth = await grow(BERTH_SESSIONS, manage, () => [rig.pid])
    await using sshd = await PeerSshd.start()
    const shell = { host: '127.0.0.1', port: sshd.port, username: 'root', identity: sshd.identity }
    const peer = await grow(SSHD_SESSIONS, shell, () => family(sshd.pid))
    return { berth, peer }
  }
}

/** Opens sessions that do nothing. @returns KiB that a server's processes grew by for each */
async function grow(count: number, target: Target, processes: () => number[]): Promise<number> {
  const memory = () => processes().reduce((sum, pid) => sum + pssKiB(pid), 0)
  const before = memory()
  const clients: ssh2.Client[] = []
  try {
    while (clients.length < count) {
      const batch = Array.from({ length: Math.min(AT_ONCE, count - clients.length) }, () => open(target))
      clients.push(...(await Promise.all(batch)))
    }
    await sleep(3000)
    return (memory() - before) / count
  } finally {
    for (const client of clients) client.end()
    await sleep(1000)
  }
}

async function open({ host, port, username, identity }: Target): Promise<ssh2.Client> {
  const client = new ssh2.Client()
  client.connect({ host, port, username, privateKey: readFileSync(identity), readyTimeout: 60_000 })
  await once(client, 'ready')
  return client
}

/** A process and all its descendants. */
function family(pid: number): number[] {
  const parents = new Map<number, number>()
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      // proc_pid_stat(5): the name stands in parentheses and may hold spaces.
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8').replace(/^.*\) /s, '')
      parents.set(Number(entry), Number(stat.split(' ')[1]))
    } catch {
      // It ended while we looked.
    }
  }
  const children = [...parents].filter(([, parent]) => parent === pid).map(([child]) => child)
  return [pid, ...children.flatMap(family)]
}

/** Proportional set size (proc_pid_smaps(5)): pages shared by n processes count 1/n each. */
function pssKiB(pid: number): number {
  return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1])
}
