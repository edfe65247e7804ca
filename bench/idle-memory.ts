import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench } from './bench.ts'
import { members } from './members.ts'
import { PeerSshd } from './peer-sshd.ts'

const BERTH_SESSIONS = 200
const SSHD_SESSIONS = 40
const AT_ONCE = 8

export const idleMemory: Bench = {
  name: 'idle-memory',
  claim: 'memory (PSS) of an idle session, against sshd',
  unit: 'KiB',
  limit: { atMost: 1 / 20 },
  async measure(rig) {
    const [alice] = await members(rig, 1)
    const berthSession = (index: number) => [
      ...['ssh', '-v', '-N', '-F', alice!.sshConfig, '-o', `BindAddress=127.0.2.${index + 1}`, 'gpu1-manage']
    ]
    // Once through before measuring: what is compiled and pooled at the first sessions belongs to none of them.
    await grow(BERTH_SESSIONS, berthSession, () => [rig.pid])
    const berth = await grow(BERTH_SESSIONS, berthSession, () => [rig.pid])
    await using sshd = await PeerSshd.start()
    const sshdSession = () => sshd.ssh([], ['-v', '-N'])
    const peer = await grow(SSHD_SESSIONS, sshdSession, () => family(sshd.pid))
    return { berth, peer }
  }
}

/** Opens sessions that do nothing. @returns KiB that a server's processes grew by for each */
async function grow(count: number, argv: (index: number) => string[], processes: () => number[]): Promise<number> {
  const memory = () => processes().reduce((sum, pid) => sum + pssKiB(pid), 0)
  const before = memory()
  const clients: ChildProcess[] = []
  try {
    for (let opened = 0; opened < count; opened += AT_ONCE) {
      const batch = Array.from({ length: Math.min(AT_ONCE, count - opened) }, (_, index) => argv(opened + index))
      clients.push(...(await Promise.all(batch.map(open))))
    }
    await sleep(3000)
    return (memory() - before) / count
  } finally {
    const ended = clients.filter(client => client.kill()).map(client => once(client, 'exit'))
    await Promise.all(ended)
    await sleep(1000)
  }
}

async function open([program = '', ...words]: string[]): Promise<ChildProcess> {
  const client = spawn(program, words, { stdio: ['ignore', 'ignore', 'pipe'] })
  const lines: string[] = []
  for await (const line of createInterface({ input: client.stderr })) {
    lines.push(line)
    if (!line.startsWith('Authenticated to ')) continue
    client.stderr.resume()
    return client
  }
  throw new Error(`a session did not open:\n${lines.slice(-5).join('\n')}`)
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
