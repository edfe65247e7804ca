import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run, startRig, type Member, type Ran, type Rig } from '../rig.ts'

/* The NAS is a small tmpfs, bound to where berth looks for it: it can be filled, made read-only, and taken away. */

interface Listed {
  name: string
  node: string
  note: string
  sizeBytes: number
  sha256: string
  path: string
  scheduled: boolean
  uncompressedBytes: number
}

const NAS_BYTES = 320 * 2 ** 20

let rig: Rig
let alice: Member
let bob: Member
let directory: string
let disk: string
let nas: string

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'berth-nas-'))
  disk = join(directory, 'disk')
  nas = join(directory, 'nas')
  mkdirSync(disk)
  mkdirSync(nas)
  await must(['mount', '-t', 'tmpfs', '-o', `size=${NAS_BYTES}`, 'berth-nas', disk])
  await bind()
  rig = await startRig({ config: { snapshots: { dir: nas, keepPerUser: 4 } } })
  alice = await rig.addRunningMember('alice')
  bob = await rig.addMember('bob')
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  await run(['umount', '-l', nas])
  await run(['umount', '-l', disk])
  rmSync(directory, { recursive: true, force: true })
})

async function must(argv: string[]): Promise<void> {
  expect(await run(argv)).toMatchObject({ code: 0 })
}

const bind = () => must(['mount', '--bind', disk, nas])

const tokenIn = ({ stdout }: Ran) => /\b([0-9A-Z]{26})\b/.exec(stdout)?.[1] ?? 'NONE'
const ask = async (member = alice) => tokenIn(await member.manage('snapshot'))
const listed = async (member = alice) => JSON.parse((await member.manage('snapshots --json')).stdout) as Listed[]
const files = () => (existsSync(join(disk, 'alice')) ? readdirSync(join(disk, 'alice')).toSorted() : [])
const instances = async () => {
  const { stdout } = await rig.lxc('list', '--format', 'csv', '--columns', 'n')
  return stdout.trim().split('\n')
}

/** Nothing of a snapshot is left but what is listed. */
async function expectNothingLeft(): Promise<void> {
  await expect.poll(instances, { timeout: 30_000 }).toEqual(['alice'])
  expect(files()).toEqual((await listed()).map(({ name }) => name).toSorted())
}

/** Begins a snapshot and does something as soon as the container has been copied. */
async function takeAnd(meanwhile: () => unknown): Promise<Ran> {
  const token = await ask()
  const child = spawn('ssh', ['-F', alice.sshConfig, 'gpu1-manage', 'snapshot', token], { stdio: 'pipe' })
  const said = { stdout: '', stderr: '' }
  child.stderr.on('data', (data: Buffer) => (said.stderr += data.toString()))
  const copied = Promise.withResolvers<void>()
  child.stdout.on('data', (data: Buffer) => {
    said.stdout += data.toString()
    if (said.stdout.includes('Copied')) copied.resolve()
  })
  const closed = once(child, 'close').then(([code]) => {
    copied.resolve()
    return code as number
  })
  await copied.promise
  await meanwhile()
  return { code: await closed, ...said }
}

describe('snapshot', () => {
  it('says everything of a running container, and that it must be stopped first', async () => {
    const { code, stdout, stderr } = await alice.manage('snapshot')
    expect(code).toBe(75)
    expect(stderr).toContain('ssh gpu1-manage stop')
    expect(stdout).toMatch(/on disk +\d.*iB/)
    expect(stdout).toMatch(/archive +about .*MiB \(zstd\), in about .* s/)
    expect(stdout).toContain(`${nas}/alice, where `)
    expect(stdout).toContain('0 of 4 snapshots, 0 B of 500 GiB')
    expect(stdout).not.toContain('Nothing has been done yet')
  })

  it('prints the whole line to paste, with a token that only this member can use, here and for this', async () => {
    await alice.manage('stop')
    const asked = await alice.manage(`snapshot --note 'before the upgrade'`)
    expect(asked).toMatchObject({ code: 0, stderr: '' })
    expect(asked.stdout).toMatch(/^ {2}ssh gpu1-manage snapshot [0-9A-Z]{26} --note '"before the upgrade"'$/m)
    const token = tokenIn(asked)
    const again = 'ssh gpu1-manage snapshot'
    const refused = { code: 77, stdout: '', stderr: expect.stringContaining(again) as string }
    expect(await alice.manage(`snapshot ${token.slice(1)}0`)).toMatchObject(refused)
    expect(await bob.manage(`snapshot ${token}`)).toMatchObject(refused)
    expect(await alice.manage(`rebuild ${token} debian-12`)).toMatchObject({ code: 77 })
    inDatabase(database => database.prepare('UPDATE tokens SET expires_at_ms = ?').run(Date.now() - 1))
    expect(await alice.manage(`snapshot ${token}`)).toMatchObject(refused)
    expect(await listed()).toEqual([])
    expect(files()).toEqual([])
    // Only hashes are kept, and the audit masks what was typed.
    const audit = (await rig.berth('audit', '--json')).stdout
    expect(audit).not.toContain(token)
    expect(audit).toContain('snapshot ***')
  })

  it('archives a stopped container, which may be started again while the archive is being made', async () => {
    let started: Ran | undefined
    // LXD folds it in the archive's YAML.
    const description = 'Debian 12 with a description that takes more columns than the 80 of a line in YAML, and some'
    expect(await rig.lxc('config', 'set', 'alice', `image.description=${description}`)).toMatchObject({ code: 0 })
    const done = await takeAnd(async () => {
      started = await alice.manage('start')
      expect(await alice.manage('status --json')).toMatchObject({ code: 0 })
    })
    expect(started).toMatchObject({ code: 0 })
    expect(done.code, done.stderr).toBe(0)
    expect(done.stdout).toContain('ssh gpu1-manage\n')
    const [snapshot] = (await listed()) as [Listed]
    const sha256 = (await run(['sha256sum', join(disk, 'alice', snapshot.name)])).stdout.split(' ')[0]
    expect(snapshot).toMatchObject({ node: 'gpu1', sha256, path: `${nas}/alice/${snapshot.name}`, scheduled: false })
    for (const word of [snapshot.path, sha256, 'Took: ']) expect(done.stdout).toContain(word)
    expect(done.stderr).toMatch(/writing the archive .* of about .*iB\/s, .* left/)
    const inside = await run(['sh', '-c', `zstd -dc ${join(disk, 'alice', snapshot.name)} | wc -c`])
    expect(Number(inside.stdout)).toBe(snapshot.uncompressedBytes)
    expect(statSync(join(disk, 'alice')).mode & 0o777).toBe(0o700)
    expect(statSync(join(disk, 'alice', snapshot.name)).mode & 0o777).toBe(0o600)
    await expectNothingLeft()
    expect(await rig.berth('snapshot', 'verify')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('1 whole') as string
    })
  })

  it('is taken once when two clients race with one token, and ends when nobody waits for it', async () => {
    await alice.manage('stop')
    const token = await ask()
    const line = ['-F', alice.sshConfig, 'gpu1-manage', 'snapshot', token]
    const clients = [0, 1].map(() => spawn('ssh', line, { stdio: ['ignore', 'pipe', 'pipe'] }))
    const loser = await Promise.race(clients.map(client => once(client, 'close').then(([code]) => code as number)))
    expect(loser).toBe(77)
    // The winner's connection is cut; the bare command shows how far the work is, to its end.
    for (const client of clients) client.kill('SIGKILL')
    const followed = await alice.manage('snapshot')
    expect(followed.code, followed.stderr).toBe(0)
    expect(followed.stdout).toContain('SHA-256')
    expect(await listed()).toHaveLength(2)
    await expectNothingLeft()
  })

  it('needs nobody else on the container, and the token stays good', async () => {
    const token = await ask()
    await alice.manage('start')
    expect(await alice.manage(`snapshot ${token}`)).toMatchObject({ code: 75 })
    await alice.manage('stop --timeout 0')
    const hash = createHash('sha256').update(token).digest()
    expect(
      inDatabase(database => database.prepare('SELECT used_at_ms FROM tokens WHERE token_sha256 = ?').pluck().get(hash))
    ).toBeNull()
  })

  it('is refused at once when it could not be recovered', async () => {
    const token = await ask()
    expect(await rig.lxc('config', 'set', 'alice', 'raw.lxc', 'lxc.tty.max=4')).toMatchObject({ code: 0 })
    const refused = await alice.manage(`snapshot ${token}`)
    expect(await rig.lxc('config', 'unset', 'alice', 'raw.lxc')).toMatchObject({ code: 0 })
    expect(refused).toMatchObject({ code: 73, stderr: expect.stringContaining('raw.lxc') as string })
    await expectNothingLeft()
  })
})

describe('when the NAS', () => {
  it('fills up at the last bytes, nothing is left and the container is as it was', async () => {
    const filler = join(disk, 'filler')
    const [{ sizeBytes }] = (await listed()) as [Listed]
    const full = await takeAnd(async () => {
      const free = await freeBytes()
      await must(['fallocate', '-l', String(free - sizeBytes + 64 * 1024), filler])
    })
    rmSync(filler)
    expect(full.code, full.stdout).toBe(73)
    expect(full.stderr).toContain('There is not enough space.')
    await expectNothingLeft()
    expect(await listed()).toHaveLength(2)
  })

  it('is full beforehand, that is said before anything is done', async () => {
    const filler = join(disk, 'filler')
    await must(['fallocate', '-l', String((await freeBytes()) - 2 ** 20), filler])
    expect(await alice.manage('snapshot')).toMatchObject({ code: 73, stdout: '' })
    rmSync(filler)
  })

  it('is gone, an empty mount point is not written to', async () => {
    await must(['umount', nas])
    const refused = await alice.manage('snapshot')
    expect(refused).toMatchObject({ code: 69, stdout: '' })
    expect(refused.stderr).toContain('Is the NAS mounted?')
    expect(readdirSync(nas)).toEqual([])
    const doctor = await rig.berth('doctor')
    await bind()
    expect(doctor.stdout).toMatch(/FAULT +snapshots: .*\.berth/)
  })

  it('goes in the middle, that is told, and what had been written to its end is kept when it is back', async () => {
    const partials = () => files().filter(name => name.startsWith('.partial'))
    const gone = await takeAnd(async () => {
      expect(partials()).toHaveLength(1)
      await must(['umount', '-l', nas])
    })
    try {
      expect(gone.code, gone.stdout).toBe(69)
      expect(partials()).toHaveLength(1)
      const busy = await alice.manage('snapshot')
      expect(busy).toMatchObject({ code: 75, stderr: expect.stringContaining('lost its file .berth') as string })
    } finally {
      await bind()
    }
    await expect.poll(partials, { timeout: 45_000 }).toEqual([])
    await expectNothingLeft()
    expect(await listed()).toHaveLength(3)
    expect(await rig.berth('snapshot', 'verify')).toMatchObject({ code: 0 })
  })

  it('can only be read, that is said', async () => {
    await must(['mount', '-o', 'remount,bind,ro', nas])
    const refused = await takeAnd(() => {})
    await must(['mount', '-o', 'remount,bind,rw', nas])
    expect(refused).toMatchObject({ code: 69, stderr: expect.stringContaining('it can only be read') as string })
    await expectNothingLeft()
  })

  it('has a symlink in the place of the directory, nothing is written through it', async () => {
    const elsewhere = join(directory, 'elsewhere')
    mkdirSync(elsewhere)
    renameSync(join(disk, 'alice'), join(disk, 'alice.away'))
    symlinkSync(elsewhere, join(disk, 'alice'))
    const refused = await takeAnd(() => {})
    expect(refused).toMatchObject({ code: 69, stderr: expect.stringContaining('something else stands') as string })
    rmSync(join(disk, 'alice'))
    renameSync(join(disk, 'alice.away'), join(disk, 'alice'))
    expect(readdirSync(elsewhere)).toEqual([])
  })
})

describe('snapshots', () => {
  it('lists them for people', async () => {
    const { stdout } = await alice.manage('snapshots')
    expect(stdout).toMatch(/^NAME +NODE +SIZE +AGE +TEMPLATE +NOTE$/m)
    expect(stdout).toContain('3 of 4 snapshots')
  })

  it('keeps as many as the limit says, and names what could be removed', async () => {
    const oldest = (await listed()).at(-1) as Listed
    await limitTo({ keepPerUser: 2 })
    const refused = await alice.manage('snapshot')
    expect(refused).toMatchObject({ code: 73, stdout: '' })
    expect(refused.stderr).toContain(`ssh gpu1-manage snapshots remove ${oldest.name}`)
    await limitTo({ keepPerUser: 9, maxBytesPerUser: oldest.sizeBytes * 3 + 2 ** 20 })
    expect(await alice.manage('snapshot')).toMatchObject({ code: 73, stdout: '' })
  })

  it('removes one with a token for that one', async () => {
    const [newest, middle, oldest] = (await listed()) as [Listed, Listed, Listed]
    const token = tokenIn(await alice.manage(`snapshots remove ${oldest.name}`))
    expect(await alice.manage(`snapshots remove ${newest.name} ${token}`)).toMatchObject({ code: 77 })
    expect(await alice.manage(`snapshots remove ../bob/x ${token}`)).toMatchObject({ code: 64 })
    expect(await bob.manage(`snapshots remove ${oldest.name} ${token}`)).toMatchObject({ code: 64 })
    expect(await alice.manage(`snapshots remove ${oldest.path} ${token}`)).toMatchObject({ code: 0 })
    expect(await alice.manage(`snapshots remove ${newest.name} ${token}`)).toMatchObject({ code: 77 })
    expect((await listed()).map(({ name }) => name)).toEqual([newest.name, middle.name])
    expect(files()).toEqual([middle.name, newest.name])
  })

  it('are read again by the admin, who is told of what is damaged, gone or strange', async () => {
    const [{ name }] = (await listed()) as [Listed]
    const path = join(disk, 'alice', name)
    const content = readFileSync(path)
    content[content.length >> 1]! ^= 1
    writeFileSync(path, content)
    writeFileSync(join(disk, 'alice', 'mine.txt'), 'hello')
    const damaged = await rig.berth('snapshot', 'verify', '--user', 'alice')
    expect(damaged).toMatchObject({ code: 1, stdout: expect.stringContaining(`FAULT  alice/${name}: `) as string })
    expect(damaged.stdout).toContain('mine.txt')
    rmSync(path)
    const gone = await rig.berth('snapshot', 'verify', '--json')
    expect(gone.code).toBe(1)
    expect(JSON.parse(gone.stdout)).toContainEqual({ user: 'alice', name, fault: 'the file is gone' })
    writeFileSync(path, content)
  })

  it('go with their user, as is said before', async () => {
    const removed = await rig.berth('user', 'remove', 'alice', '--yes')
    expect(removed.code, removed.stderr).toBe(0)
    expect(removed.stdout).toMatch(/2 snapshots \(.*MiB\)/)
    expect(removed.stderr).toContain(`${nas}/alice holds files that are not berth's`)
    expect(files()).toEqual(['mine.txt'])
  })
})

async function freeBytes(): Promise<number> {
  return (
    Number((await run(['stat', '-f', '-c', '%a', disk])).stdout) *
    Number((await run(['stat', '-f', '-c', '%S', disk])).stdout)
  )
}

function inDatabase<T>(work: (database: Sqlite.Database) => T): T {
  const database = new Sqlite(join(rig.directory, 'state/berth.sqlite'), { timeout: 5000 })
  try {
    return work(database)
  } finally {
    database.close()
  }
}

/** Another daemon with other limits. */
async function limitTo(limits: object): Promise<void> {
  const { parse, stringify } = await import('yaml')
  const config = parse(readFileSync(rig.configPath, 'utf8')) as { snapshots: object }
  Object.assign(config.snapshots, limits)
  writeFileSync(rig.configPath, stringify(config))
  await rig.end()
  await rig.serve()
}
