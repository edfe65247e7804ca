import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, request, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse, stringify } from 'yaml'
import { createCommands } from '../../forced-commands/index.ts'
import type { MemberReason } from '../../src/errors.ts'
import { freePort } from '../free-port.ts'
import { run, startRig, type Member, type Ran, type Rig } from '../rig.ts'

/*
 * Every reason a member can meet, met: over SSH, with the real client and a real LXD. The list below is complete because its type
 * is; the last test holds the commands that were seen against the list of commands.
 */

let rig: Rig
let alice: Member
let bob: Member
let faulty: FaultyLxd
let nas: string

beforeAll(async () => {
  nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
  expect(await run(['mount', '-t', 'tmpfs', '-o', 'size=512m', 'berth-nas', nas])).toMatchObject({ code: 0 })
  rig = await startRig({
    node: { forwarding: 'proxy' },
    config: {
      ssh: { listen: '0.0.0.0' },
      forwardPorts: { from: 11_300, to: 11_300 },
      snapshots: { dir: nas, keepPerUser: 1 }
    }
  })
  faulty = await FaultyLxd.start(rig)
  await addNodes()
  alice = await rig.addRunningMember('alice')
  bob = await rig.addMember('bob')
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  await faulty[Symbol.asyncDispose]()
  await run(['umount', '-l', nas])
  rmSync(nas, { recursive: true })
})

/** More nodes on the same server, each with one thing wrong. */
async function addNodes(): Promise<void> {
  const config = parse(readFileSync(rig.configPath, 'utf8')) as {
    nodes: Record<string, Record<string, unknown>>
    templates: object[]
  }
  const { gpu1 } = config.nodes
  const broken = async (name: string, change: object) => {
    config.nodes[name] = { ...gpu1, managePort: await freePort(), ...change }
  }
  await broken('dead', { lxd: 'unix:///nowhere/unix.socket' })
  await broken('poolless', { storagePool: 'no-such-pool', project: `${rig.project}-poolless` })
  await broken('faulty', { lxd: `unix://${faulty.path}` })
  config.templates.push({ name: 'ghost', image: 'no-such-image', description: 'has no image' })
  writeFileSync(rig.configPath, stringify(config))
  await rig.end()
  await rig.serve()
}

async function openWeb(): Promise<void> {
  const config = parse(readFileSync(rig.configPath, 'utf8')) as object
  writeFileSync(rig.configPath, stringify({ ...config, web: { listen: `127.0.0.1:${await freePort('127.0.0.1')}` } }))
  await rig.end()
  await rig.serve()
}

const manageOn = (node: string, member: Member, words: string) =>
  run(['ssh', '-F', member.sshConfig, `${node}-manage`, words])

function inDatabase<T>(work: (database: Sqlite.Database) => T): T {
  const database = new Sqlite(join(rig.directory, 'state/berth.sqlite'), { timeout: 5000 })
  try {
    return work(database)
  } finally {
    database.close()
  }
}

/** A row for a snapshot of alice's that was never taken, for as long as `work` takes. */
async function withSnapshotRow<T>(work: (name: string) => Promise<T>): Promise<T> {
  const name = 'alice-gpu1-20260101-000000.tar.zst'
  inDatabase(database =>
    database
      .prepare(
        `INSERT INTO snapshots (user_id, node, name, template, created_at_ms, size_bytes, uncompressed_bytes, sha256, compression,
                                instance, server, took_ms)
         SELECT id, 'gpu1', ?, 'debian-12', 1, 7, 7, 'none', 'zstd', 'alice', 'LXD 5.0.2', 1 FROM users WHERE name = 'alice'`
      )
      .run(name)
  )
  try {
    return await work(name)
  } finally {
    inDatabase(database => database.prepare('DELETE FROM snapshots WHERE name = ?').run(name))
  }
}

const tokenIn = ({ stdout }: Ran) => /\b[0-9A-Z]{26}\b/.exec(stdout)?.[0] ?? 'NONE'

const inContainer = (words: string) => rig.lxc('exec', 'alice', '--', 'sh', '-c', words)

/** The next start sets the container up again. */
async function forgetProvisioning(): Promise<void> {
  await alice.manage('stop --timeout 0')
  inDatabase(database => database.prepare("UPDATE containers SET provisioned_at_ms = NULL WHERE node = 'gpu1'").run())
}

const provocations: Record<MemberReason, () => Promise<Ran>> = {
  usage: () => alice.manage('status one two'),
  'unknown-command': () => alice.manage('frobnicate'),
  'command-line-refused': () => alice.manage('status; id'),
  'not-allowed': () => bob.register('alice'),
  'bad-key': () => alice.manage('keys add', { input: 'rubbish\n' }),
  'key-taken': () => alice.manage('keys add', { input: readFileSync(`${bob.identity}.pub`) }),
  'last-key': async () => alice.manage(`keys remove ${await fingerprintOf(alice)}`),
  'unknown-key': async () => alice.manage(`keys remove ${await fingerprintOf(bob)}`),
  'nothing-kept': () => alice.manage('recover --undo'),
  'not-registered': () => bob.manage('status'),
  'invite-invalid': () => run([...rig.manageArguments('enroll', bob.identity), 'alice', '0000-0000-0000-0000']),
  'user-disabled': async () => {
    const { code } = JSON.parse((await rig.berth('invite', 'carol', '--json')).stdout) as { code: string }
    await rig.berth('user', 'disable', 'carol')
    return run([...rig.manageArguments('enroll', await rig.makeKey('carol')), 'carol', code])
  },
  'bad-user-name': async () => {
    const sgx = await rig.addMember('sgx')
    return sgx.register()
  },
  'unknown-template': async () => {
    inDatabase(database => database.prepare("UPDATE containers SET template = 'gone' WHERE node = 'gpu1'").run())
    try {
      return await alice.register()
    } finally {
      inDatabase(database => database.prepare("UPDATE containers SET template = 'debian-12' WHERE node = 'gpu1'").run())
    }
  },
  'no-web': () => alice.manage('web'),
  'image-missing': () => bob.manage('register --template ghost'),
  'node-unavailable': () => manageOn('dead', alice, 'register'),
  'cannot-create': () => manageOn('poolless', alice, 'register'),
  'stop-failed': async () => {
    inDatabase(database =>
      database
        .prepare(
          "INSERT INTO containers (user_id, node, template, ipv4, created_at_ms) SELECT user_id, 'faulty', template, ipv4, 1 FROM containers WHERE node = 'gpu1'"
        )
        .run()
    )
    return manageOn('faulty', alice, 'stop')
  },
  'unknown-snapshot': () => alice.manage('snapshots remove nothing-of-the-kind'),
  'token-invalid': () => alice.manage(`snapshot ${'0'.repeat(26)}`),
  'snapshots-unavailable': async () => {
    // At its first use the directory is marked; without the mark it is not written to again.
    await alice.manage('snapshot')
    renameSync(join(nas, '.berth'), join(nas, 'away'))
    const refused = await alice.manage('snapshot')
    renameSync(join(nas, 'away'), join(nas, '.berth'))
    return refused
  },
  'not-stopped': async () => {
    await alice.manage('stop')
    const token = tokenIn(await alice.manage('snapshot'))
    await alice.manage('start')
    return alice.manage(`snapshot ${token}`)
  },
  'limit-reached': () => withSnapshotRow(() => alice.manage('snapshot')),
  'no-space': async () => {
    const filler = join(nas, 'filler')
    await run(['fallocate', '-l', '500MiB', filler])
    const refused = await alice.manage('snapshot')
    rmSync(filler)
    return refused
  },
  'archive-refused': () =>
    withSnapshotRow(async name => {
      await alice.manage('stop')
      mkdirSync(join(nas, 'alice'), { recursive: true })
      writeFileSync(join(nas, 'alice', name), 'rubbish')
      return alice.manage(`recover ${tokenIn(await alice.manage('recover'))} ${name}`)
    }),
  'snapshot-failed': async () => {
    await alice.manage('stop')
    return manageOn('faulty', alice, `snapshot ${tokenIn(await manageOn('faulty', alice, 'snapshot'))}`)
  },
  busy: async () => {
    await alice.manage('start')
    const restarting = spawn('ssh', ['-F', alice.sshConfig, 'gpu1-manage', 'restart'], {
      stdio: ['ignore', 'ignore', 'pipe']
    })
    const restarted = once(restarting, 'exit')
    await once(restarting.stderr, 'data')
    const stopped = await alice.manage('stop')
    await restarted
    return stopped
  },
  internal: async () => {
    inDatabase(database => database.exec('ALTER TABLE host_keys RENAME TO host_keys_elsewhere'))
    try {
      return await alice.manage('known-hosts')
    } finally {
      inDatabase(database => database.exec('ALTER TABLE host_keys_elsewhere RENAME TO host_keys'))
    }
  },
  'not-running': async () => {
    await alice.manage('stop')
    return alice.manage('shell -- true')
  },
  'port-taken': async () => {
    await alice.manage('stop')
    const { address, fixedPort } = JSON.parse((await alice.manage('status --json')).stdout) as {
      address: string
      fixedPort: number
    }
    const squatter = spawn(
      rig.lab.enter[0] as string,
      [...rig.lab.enter.slice(1), 'nc', '-lk', address, String(fixedPort)],
      { stdio: 'ignore' }
    )
    try {
      await expect.poll(async () => (await run(['nc', '-z', '-w', '1', address, String(fixedPort)])).code).toBe(0)
      return await alice.manage('start')
    } finally {
      squatter.kill()
      await once(squatter, 'exit')
    }
  },
  'start-failed': async () => {
    await alice.manage('stop')
    const directory = `/tmp/gone-${rig.project}`
    await run([...rig.lab.enterAll, 'mkdir', directory])
    const added = await rig.lxc('config', 'device', 'add', 'alice', 'gone', 'disk', `source=${directory}`, 'path=/mnt')
    expect(added).toMatchObject({ code: 0 })
    await run([...rig.lab.enterAll, 'rmdir', directory])
    try {
      return await alice.manage('start')
    } finally {
      await rig.lxc('config', 'device', 'remove', 'alice', 'gone')
    }
  },
  'image-unfit': async () => {
    await alice.manage('start')
    await inContainer('mv /usr/bin/sudo /usr/bin/sudo.away')
    await forgetProvisioning()
    const refused = await alice.manage('start')
    await inContainer('mv /usr/bin/sudo.away /usr/bin/sudo')
    return refused
  },
  'provisioning-failed': async () => {
    await inContainer('echo "Nonsense yes" >> /etc/ssh/sshd_config')
    await forgetProvisioning()
    const refused = await alice.manage('start')
    await inContainer('sed -i /Nonsense/d /etc/ssh/sshd_config')
    return refused
  },
  unreachable: async () => {
    await alice.manage('start')
    await inContainer('systemctl disable ssh.service ssh.socket; systemctl mask ssh.service')
    const refused = await alice.manage('restart')
    await inContainer('systemctl unmask ssh.service; systemctl enable ssh.service')
    return refused
  },
  'ports-exhausted': async () => {
    expect(await alice.manage('port 8888')).toMatchObject({ code: 0 })
    return alice.manage('port 9999')
  },
  'addresses-exhausted': async () => {
    const bridge = (await rig.lxc('network', 'get', rig.network, 'ipv4.address', '--project', 'default')).stdout.trim()
    const taken = inDatabase(database => database.prepare('SELECT ipv4 FROM containers').pluck().all() as string[])
    const small = `${bridge.split('/')[0]}/30`
    expect(taken).toContain(bridge.replace(/\.1\/24$/, '.2'))
    expect(await rig.lxc('network', 'set', rig.network, `ipv4.address=${small}`, '--project', 'default')).toMatchObject(
      { code: 0 }
    )
    try {
      return await bob.register()
    } finally {
      await rig.lxc('network', 'set', rig.network, `ipv4.address=${bridge}`, '--project', 'default')
    }
  }
}

const fingerprintOf = async ({ identity }: Member) =>
  (await run(['ssh-keygen', '-lf', `${identity}.pub`])).stdout.split(' ')[1] as string

const exitCodes: Record<MemberReason, number> = {
  usage: 64,
  'unknown-command': 64,
  'command-line-refused': 64,
  'unknown-key': 64,
  'unknown-template': 64,
  'unknown-snapshot': 64,
  'nothing-kept': 64,
  'not-registered': 64,
  'bad-key': 65,
  'bad-user-name': 65,
  'archive-refused': 65,
  'node-unavailable': 69,
  'no-web': 69,
  'image-missing': 69,
  'image-unfit': 69,
  'snapshots-unavailable': 69,
  internal: 70,
  'cannot-create': 73,
  'provisioning-failed': 73,
  'addresses-exhausted': 73,
  'port-taken': 73,
  'ports-exhausted': 73,
  'snapshot-failed': 73,
  'limit-reached': 73,
  'no-space': 73,
  busy: 75,
  'start-failed': 75,
  'stop-failed': 75,
  unreachable: 75,
  'not-running': 75,
  'not-stopped': 75,
  'not-allowed': 77,
  'user-disabled': 77,
  'invite-invalid': 77,
  'token-invalid': 77,
  'last-key': 77,
  'key-taken': 77
}

describe('every reason a member can meet', () => {
  it.each(Object.keys(provocations) as MemberReason[])('%s', async reason => {
    const { code, stdout, stderr } = await provocations[reason]()
    expect({ code, stdout }, stderr).toEqual({ code: exitCodes[reason], stdout: '' })
    // What happened, and on a line of its own what to do next.
    const said = stderr.trim().split('\n')
    expect(said.length).toBeGreaterThanOrEqual(2)
    expect((await rig.audit()).filter(entry => entry.exitCode === code && entry.reason === reason)).not.toEqual([])
  })
})

describe('every command', () => {
  it('was seen over SSH, doing what it is for', async () => {
    for (const words of ['help', 'config', 'keys', 'status', 'snapshots'])
      expect(await alice.manage(words)).toMatchObject({ code: 0 })
    const { code } = JSON.parse((await rig.berth('invite', 'dora', '--json')).stdout) as { code: string }
    expect(await run([...rig.manageArguments('enroll', await rig.makeKey('dora')), 'dora', code])).toMatchObject({
      code: 0
    })
    for (const words of ['start', 'wake', 'shell -- true', 'restart', 'stop', 'snapshot', 'recover', 'rebuild'])
      expect(await alice.manage(words)).toMatchObject({ code: 0 })
    await openWeb()
    expect(await alice.manage('web')).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/\/link\/\S{22}\n$/) as string
    })
    for (const words of ['stop', 'recover', 'rebuild']) expect(await alice.manage(words)).toMatchObject({ code: 0 })
    const done = (await rig.audit()).filter(({ exitCode }) => exitCode === 0).map(({ words }) => words.split(' ')[0])
    const parts = { config: { templates: [] } } as unknown as Parameters<typeof createCommands>[0]
    const verbs = createCommands(parts).map(({ command }) => command.split(' ')[0])
    expect(new Set(done)).toEqual(new Set(verbs))
  })
})

/**
 * A proxy in front of the real LXD that fails what a real one cannot be made to fail: stopping and copying a container.
 */
class FaultyLxd implements AsyncDisposable {
  readonly path: string
  readonly #server: Server

  constructor(path: string, server: Server) {
    this.path = path
    this.#server = server
  }

  static async start(rig: Rig): Promise<FaultyLxd> {
    const path = join(rig.directory, 'faulty.socket')
    const server = createServer((incoming, answer) => {
      if (incoming.method !== 'GET') {
        const change = `${incoming.method} ${incoming.url?.split('?')[0]}`
        // By its address it is a server of its own, so berth would put the one bridge right for both, in turns for ever.
        const code = /^PUT .*\/state$|^POST \/1.0\/instances$/.test(change) ? 500 : 412
        answer.writeHead(code, { 'content-type': 'application/json' })
        answer.end(JSON.stringify({ type: 'error', error: 'planted', error_code: code }))
        return
      }
      const { method, url, headers } = incoming
      const onward = request({ socketPath: rig.lab.lxdSocket, method, path: url, headers }, real => {
        answer.writeHead(real.statusCode ?? 502, real.headers)
        real.pipe(answer)
      })
      onward.on('error', () => answer.destroy())
      incoming.pipe(onward)
    })
    server.listen(path)
    await once(server, 'listening')
    return new FaultyLxd(path, server)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
    rmSync(this.path, { force: true })
  }
}
