import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { stringify } from 'yaml'
import { parseConfig, type Config, type NodeConfig } from '../../src/config.ts'
import { Containers } from '../../src/containers/containers.ts'
import { openDatabase, type Database } from '../../src/db/open.ts'
import { Keys } from '../../src/directory/keys.ts'
import { parsePublicKey } from '../../src/directory/public-key.ts'
import { Users, type User } from '../../src/directory/users.ts'
import { createLog, type Log } from '../../src/log.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { execCaptured } from '../../src/lxd/exec.ts'
import { deleteInstance, listInstances, setInstanceState, STATUS } from '../../src/lxd/instances.ts'
import { networkAcls } from '../../src/lxd/network-acls.ts'
import { networks } from '../../src/lxd/networks.ts'
import { profiles } from '../../src/lxd/profiles.ts'
import { Operations } from '../../src/operations/operations.ts'
import { generateHostKey } from '../../src/ssh/host-key.ts'
import { probeHostKey } from '../../src/ssh/probe-host-key.ts'
import { upLab } from '../lab/lab.ts'
import type { LabServer } from '../lab/server.ts'
import { run, type Ran } from '../rig.ts'

export interface LabContainersOptions {
  readonly server?: 'lxd' | 'incus'
  readonly images?: string[]
  /** Laid over the configuration of the only node, gpu1. */
  readonly node?: (lab: LabServer) => Record<string, unknown>
}

/** The containers part of berth alone, on the run's real server, with a project, bridge and ports of its own. */
export class LabContainers implements AsyncDisposable {
  readonly lab: LabServer
  readonly config: Config
  readonly node: NodeConfig
  readonly lxd: LxdClient
  readonly database: Database
  readonly users: Users
  readonly keys: Keys
  readonly containers: Containers
  readonly directory: string
  readonly log: Log

  constructor(lab: LabServer, directory: string, nodeOverrides: Record<string, unknown>, images: string[]) {
    const tag = Math.floor(Math.random() * 36 ** 6)
      .toString(36)
      .padStart(6, '0')
    const from = 20_000 + Math.floor(Math.random() * 1200) * 10
    this.lab = lab
    this.directory = directory
    this.config = parseConfig(
      stringify({
        stateDir: directory,
        ports: { from, to: from + 9 },
        forwardPorts: { from: 11_000, to: 11_009 },
        nodes: {
          gpu1: {
            address: lab.nodeAddress,
            manageAddress: lab.hostAddress,
            managePort: 3000 + Math.floor(Math.random() * 5000),
            lxd: `unix://${lab.lxdSocket}`,
            project: `bc-${tag}`,
            storagePool: lab.pool,
            network: `bc${tag}`,
            limits: { memory: '512MiB', processes: 500, disk: '2GiB', cpu: 1 },
            ...nodeOverrides
          }
        },
        templates: images.map(image => ({ name: image, image }))
      }),
      'test'
    )
    this.node = this.config.nodes.get('gpu1') as NodeConfig
    this.lxd = new LxdClient({ url: this.node.lxd, project: this.node.project })
    this.database = openDatabase(join(directory, 'berth.sqlite'))
    this.users = new Users(this.database, this.config.ports)
    this.keys = new Keys(this.database)
    this.log = createLog('silent')
    this.containers = this.open(this.config)
  }

  /** As a restarted berth would: the same state, another configuration. */
  open(config: Config, probe: typeof probeHostKey = probeHostKey, lxd: LxdClient = this.lxd): Containers {
    const { database, keys, users, log } = this
    const operations = new Operations(database)
    return new Containers({
      config,
      database,
      keys,
      users,
      operations,
      lxdFor: () => lxd,
      probeHostKey: probe,
      generateHostKey,
      log
    })
  }

  /** The same configuration with other values for the node. */
  reconfigure(overrides: Partial<NodeConfig>): { containers: Containers; node: NodeConfig } {
    const node = { ...this.node, ...overrides }
    return { node, containers: this.open({ ...this.config, nodes: new Map([['gpu1', node]]) }) }
  }

  async addUser(name: string): Promise<User> {
    const user = this.users.add(name)
    await this.addKey(user)
    return user
  }

  /** A new key of the user's; the path of the private key. */
  async addKey(user: User): Promise<string> {
    const path = join(this.directory, `key-${user.name}-${this.keys.listFor(user).length}`)
    await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', user.name, '-f', path])
    this.keys.add(user, parsePublicKey(readFileSync(`${path}.pub`, 'utf8')))
    return path
  }

  /** Runs a shell line in the container as root through the server; no sshd or network is needed. */
  async inside(user: User, line: string): Promise<{ exitCode: number; stdout: string; stderr: string }> {
    return execCaptured(this.lxd, user.name, { command: ['sh', '-c', line], timeoutMs: 60_000 })
  }

  /** The real OpenSSH client through the fixed port, knowing only the host keys berth tells of. */
  ssh(user: User, command: string, { key = `key-${user.name}-0` }: { key?: string } = {}): Promise<Ran> {
    const knownHosts = join(this.directory, `known_hosts-${user.name}`)
    const where = `[${this.node.address}]:${user.fixedPort}`
    const lines = this.containers.hostKeys(user, this.node).map(({ publicKey }) => `${where} ${publicKey}\n`)
    writeFileSync(knownHosts, lines.join(''))
    const options = {
      BatchMode: 'yes',
      IdentitiesOnly: 'yes',
      IdentityAgent: 'none',
      StrictHostKeyChecking: 'yes',
      UserKnownHostsFile: knownHosts,
      ConnectTimeout: '5',
      LogLevel: 'ERROR'
    }
    const words = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
    const target = ['-i', join(this.directory, key), '-p', String(user.fixedPort), `${user.name}@${this.node.address}`]
    return run(['ssh', '-F', 'none', ...words, ...target, command])
  }

  /** Listens in the server's network namespace (or, with `outside`, on the machine) and tells what arrives. */
  async listen(kind: 'tcp' | 'udp', { port = 0, outside = false, member = '' } = {}): Promise<Listener> {
    const place = outside ? [] : this.lab.enter
    const words = [...place, process.execPath, '-e', LISTENER, kind, String(port), member]
    const child = spawn(words[0] as string, words.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] })
    const heard: string[] = []
    const lines = createInterface({ input: child.stdout })
    const ended = once(child, 'exit').then(() => Promise.reject(new Error('the listener ended')))
    const [first] = (await Promise.race([once(lines, 'line'), ended])) as [string]
    lines.on('line', line => heard.push(line))
    ended.catch(() => {})
    return {
      heard,
      port: Number(first),
      async [Symbol.asyncDispose]() {
        child.kill()
        await once(child, 'exit')
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { name, status_code } of await listInstances(this.lxd).catch(() => [])) {
      if (status_code !== STATUS.stopped) await setInstanceState(this.lxd, name, 'stop', { force: true })
      await deleteInstance(this.lxd, name)
    }
    const shared = this.lxd.inProject('default')
    // The project goes with the lab: whoever asks for a bridge just when one is deleted is told that it is not there.
    await profiles.remove(this.lxd, 'berth').catch(() => {})
    await networks.remove(shared, this.node.network).catch(() => {})
    await networkAcls.remove(shared, `berth-${this.node.network}`).catch(() => {})
    await this.lxd.close()
    this.database.close()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

export interface Listener extends AsyncDisposable {
  readonly port: number
  /** One line for each connection or datagram. */
  readonly heard: readonly string[]
}

const LISTENER = `
const [kind, port, member] = process.argv.slice(1)
if (kind === 'tcp') {
  const server = require('net').createServer(socket => { console.log('connection'); socket.on('error', () => {}); socket.end('open\\n') })
  server.listen(+port, '0.0.0.0', () => console.log(server.address().port))
} else {
  const socket = require('dgram').createSocket({ type: 'udp4', reuseAddr: true })
  socket.on('message', message => console.log(String(message).trim()))
  socket.bind(+port, () => {
    if (member) socket.addMembership('224.0.0.251', member)
    console.log(socket.address().port)
  })
}
`

export async function openLabContainers({
  server = 'lxd',
  images = ['debian-12'],
  node = () => ({})
}: LabContainersOptions = {}): Promise<LabContainers> {
  const name = process.env['BERTH_TEST_LAB'] ?? 'test'
  const up = await upLab({ name, images, servers: server === 'incus' ? ['lxd', 'incus'] : ['lxd'] })
  const lab = server === 'incus' ? (up.incus as LabServer) : up
  return new LabContainers(lab, mkdtempSync(join(tmpdir(), 'berth-containers-')), node(lab), images)
}
