import { execFile } from 'node:child_process'
import { mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { z } from 'zod'
import { apiPath } from '../../src/lxd/api-path.ts'
import { fetchServerCertificate, joinTrust } from '../../src/lxd/certificates.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { deleteInstance, listInstances, setInstanceState, STATUS } from '../../src/lxd/instances.ts'
import { profiles } from '../../src/lxd/profiles.ts'
import { projects } from '../../src/lxd/projects.ts'
import type { LxdEndpoint, LxdTls } from '../../src/lxd/transport.ts'
import { upLab } from '../lab/lab.ts'
import type { LabServer, ServerKind } from '../lab/server.ts'
import { LONG } from '../suite.ts'

export const KINDS = ['lxd', 'incus'] as const
export interface Way {
  readonly kind: ServerKind
  readonly over: 'unix' | 'https'
}
const [SOCKET, ...OTHER_WAYS] = KINDS.flatMap(kind => (['unix', 'https'] as const).map(over => ({ kind, over })))
/** The ways this client has to a server: all of them in the long suite. */
export const WAYS: readonly Way[] = LONG ? [SOCKET!, ...OTHER_WAYS] : [SOCKET!]
/** Both servers and both transports. */
export const MAIN_WAYS: readonly Way[] = LONG ? WAYS : [SOCKET!, OTHER_WAYS.at(-1)!]

export const IMAGE = 'debian-12'

/** The run's shared server of that kind. */
export async function labServer(kind: ServerKind): Promise<LabServer> {
  const lab = await upLab({ name: process.env['BERTH_TEST_LAB'] ?? 'test', servers: ['lxd', 'incus'] })
  return kind === 'lxd' ? lab : (lab.incus as LabServer)
}

export interface Identity {
  readonly cert: string
  readonly key: string
}

/** A client certificate nobody trusts yet. */
export async function makeIdentity(): Promise<Identity> {
  const directory = await mkdtemp(join(tmpdir(), 'berth-lxd-'))
  const [key, cert] = [join(directory, 'client.key'), join(directory, 'client.crt')]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384', '-nodes']
  await promisify(execFile)('openssl', ['req', '-x509', ...curve, '-keyout', key, '-out', cert, '-subj', '/CN=test'])
  return { cert: await readFile(cert, 'utf8'), key: await readFile(key, 'utf8') }
}

/** The token `lxc config trust add` would print. */
export async function makeTrustToken(unix: LxdClient, name: string): Promise<string> {
  const begun = await unix.begin('POST', apiPath`/1.0/certificates`, { json: { type: 'client', name, token: true } })
  if (begun === undefined) throw new Error('the server began no operation')
  const { fingerprint, addresses, secret, expiresAt } = begun.metadata
  const token = { client_name: name, fingerprint, addresses, secret, expires_at: expiresAt ?? '0001-01-01T00:00:00Z' }
  return Buffer.from(JSON.stringify(token)).toString('base64')
}

/** Where a server is reached that way; over HTTPS as a client that has just become trusted. */
export async function endpointFor({ kind, over }: Way): Promise<LxdEndpoint> {
  const server = await labServer(kind)
  const unix = { url: `unix://${server.lxdSocket}` }
  if (over === 'unix') return unix
  const url = `https://${server.httpsAddress}`
  const { certificate } = await fetchServerCertificate(url)
  const tls: LxdTls = { ...(await makeIdentity()), serverCertificate: certificate }
  const [admin, client] = [new LxdClient(unix), new LxdClient({ url, tls })]
  try {
    await joinTrust(client, 'test', await makeTrustToken(admin, 'test'))
  } finally {
    await Promise.all([admin.close(), client.close()])
  }
  return { url, tls }
}

/** A project of its own on the server, with the images of the default one and a profile that has a root disk. */
export class TestProject implements AsyncDisposable {
  readonly lxd: LxdClient
  readonly server: LabServer
  readonly name: string

  constructor(lxd: LxdClient, server: LabServer, name: string) {
    this.lxd = lxd
    this.server = server
    this.name = name
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Stopped first: a failed test may have left a program running, whose operation would never end.
    for (const { name, status_code } of await listInstances(this.lxd))
      if (status_code !== STATUS.stopped)
        await setInstanceState(this.lxd, name, 'stop', { force: true }).catch(() => {})
    await this.#settle()
    await Promise.all((await listInstances(this.lxd)).map(({ name }) => deleteInstance(this.lxd, name)))
    // The project goes with the lab: whoever asks for a bridge just when one is deleted is told that it is not there.
    await this.lxd.close()
  }

  /** LXD goes on with operations whose test has left. */
  async #settle(): Promise<void> {
    const operationsSchema = z.object({ running: z.array(z.unknown()).default([]) })
    for (;;) {
      const { running } = await this.lxd.get(apiPath`/1.0/operations`, operationsSchema)
      if (running.length === 0) return
      await sleep(100)
    }
  }
}

let made = 0

export async function openProject(way: Way): Promise<TestProject> {
  const server = await labServer(way.kind)
  const name = `client-${process.pid}-${made++}`
  const lxd = new LxdClient({ ...(await endpointFor(way)), project: name })
  await projects.create(lxd, { name, config: { 'features.images': 'false', 'features.profiles': 'true' } })
  const devices = { root: { type: 'disk', path: '/', pool: server.pool } }
  await profiles.update(lxd, 'default', { config: {}, devices }, undefined)
  return new TestProject(lxd, server, name)
}
