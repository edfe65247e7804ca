import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import ssh2 from 'ssh2'
import type { Bench } from './bench.ts'
import { familyKiB, pssKiB } from './memory.ts'
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
    await grow(BERTH_SESSIONS, manage, () => pssKiB(rig.pid))
    const berth = await grow(BERTH_SESSIONS, manage, () => pssKiB(rig.pid))
    await using sshd = await PeerSshd.start()
    const shell = { host: '127.0.0.1', port: sshd.port, username: 'root', identity: sshd.identity }
    const peer = await grow(SSHD_SESSIONS, shell, () => familyKiB(sshd.pid))
    return { berth, peer }
  }
}

/** Opens sessions that do nothing. @returns KiB that a server's memory grew by for each */
async function grow(count: number, target: Target, memory: () => number): Promise<number> {
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
