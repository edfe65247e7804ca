import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { connectRest, type Rest } from './rest.ts'
import { run } from './run.ts'
import type { LabServer } from './server.ts'

/** What a member invites another with (POST /1.0/cluster/members). */
const invitation = z.looseObject({
  secret: z.string(),
  fingerprint: z.string(),
  addresses: z.array(z.string()),
  expiresAt: z.string().optional()
})

/**
 * Makes one cluster of two servers of the same kind. The second loses what it had: its pool is made anew, as the first's.
 * A link of their own leads from one to the other, for the machine forwards nothing between labs.
 */
export async function joinCluster(
  first: LabServer,
  firstName: string,
  second: LabServer,
  secondName: string
): Promise<void> {
  await linkPlaces(first, second)
  const [one, other] = [connectRest(first.lxdSocket), connectRest(second.lxdSocket)]
  try {
    await one.call('PUT', '/1.0/cluster', { server_name: firstName, enabled: true })
    const invited = invitation.parse(await inviteWhenReady(one, secondName))
    const { secret, fingerprint, addresses, expiresAt } = invited
    const words = { server_name: secondName, secret, fingerprint, addresses, expires_at: expiresAt }
    const token = Buffer.from(JSON.stringify(words)).toString('base64')
    await clear(second)
    await other.call('PUT', '/1.0/cluster', {
      server_name: secondName,
      enabled: true,
      server_address: second.httpsAddress,
      cluster_address: first.httpsAddress,
      cluster_certificate: await readFile(join(first.lxdDir, 'cluster.crt'), 'utf8'),
      ...(second.kind === 'lxd' ? { cluster_password: token } : { cluster_token: token }),
      member_config: [{ entity: 'storage-pool', name: first.pool, key: 'size', value: '12GiB' }]
    })
  } finally {
    await one.close()
    await other.close()
  }
}

/** A new cluster invites nobody until its first heartbeat, up to ten seconds later. */
async function inviteWhenReady(rest: Rest, name: string): Promise<unknown> {
  const deadlineMs = Date.now() + 30_000
  for (;;) {
    try {
      return await rest.call('POST', '/1.0/cluster/members', { server_name: name })
    } catch (error) {
      if (Date.now() > deadlineMs) throw error
      await sleep(200)
    }
  }
}

/** Each reaches the other's address directly. Gone with either place. */
async function linkPlaces(first: LabServer, second: LabServer): Promise<void> {
  await run(
    'ip',
    '-n',
    first.netns,
    'link',
    'add',
    'cluster',
    'type',
    'veth',
    'peer',
    'name',
    'cluster',
    'netns',
    second.netns
  )
  for (const [from, to] of [
    [first, second],
    [second, first]
  ] as const) {
    await run('ip', '-n', from.netns, 'link', 'set', 'cluster', 'up')
    await run('ip', '-n', from.netns, 'route', 'add', to.nodeAddress, 'dev', 'cluster', 'src', from.nodeAddress)
  }
}

/** A server that joins must have neither images nor pools. */
async function clear(server: LabServer): Promise<void> {
  const rest = connectRest(server.lxdSocket)
  try {
    for (const image of z.array(z.string()).parse(await rest.call('GET', '/1.0/images')))
      await rest.call('DELETE', image)
    await rest.call('PUT', '/1.0/profiles/default', { description: '', config: {}, devices: {} })
    await rest.call('DELETE', `/1.0/storage-pools/${server.pool}`)
  } finally {
    await rest.close()
  }
}
