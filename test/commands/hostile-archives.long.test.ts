import { createHash } from 'node:crypto'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Compression } from '../../src/snapshots/inspect.ts'
import { startRig, type Member, type Rig } from '../rig.ts'
import {
  backupOf,
  goodEntries,
  gzip,
  indexOf,
  tarOf,
  yaml,
  zstd,
  type Backup,
  type Entry
} from '../snapshots/archive-builder.ts'
import { SERVERS } from '../suite.ts'

/*
 * Whoever can write to the NAS puts another archive in place of a member's, and the database is made to believe that it is the right
 * one: hash, size, everything. The container must stay what it is. What berth finds does not depend on the server, so Incus is shown
 * only enough to see that it, too, makes nothing of an upload that is broken off.
 */

interface Row {
  readonly name: string
  readonly sha256: string
  readonly size_bytes: number
  readonly uncompressed_bytes: number
  readonly compression: Compression
  readonly instance: string
}

describe.each(SERVERS)('an archive put in place of a good one, on %s', server => {
  const isLxd = server === 'lxd'
  let rig: Rig
  let alice: Member
  let nas: string
  let row: Row
  let path: string
  let good: Buffer
  let before: string

  beforeAll(async () => {
    nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
    rig = await startRig({ server, config: { snapshots: { dir: nas } } })
    alice = await rig.addRunningMember('alice')
    expect(await alice.login('echo mine >kept')).toMatchObject({ code: 0 })
    const stopped = await alice.manage('stop --timeout 5')
    expect(stopped, stopped.stderr).toMatchObject({ code: 0 })
    const taken = await alice.manage(`snapshot ${await tokenOf('snapshot')}`)
    expect(taken, taken.stderr).toMatchObject({ code: 0 })
    row = inDatabase(database => database.prepare<[], Row>('SELECT * FROM snapshots').get()) as Row
    path = join(nas, 'alice', row.name)
    good = readFileSync(path)
    before = await describeContainer()
  })
  afterAll(async () => {
    await rig[Symbol.asyncDispose]()
    rmSync(nas, { recursive: true })
  })

  function inDatabase<T>(work: (database: Sqlite.Database) => T): T {
    const database = new Sqlite(join(rig.directory, 'state/berth.sqlite'))
    try {
      return work(database)
    } finally {
      database.close()
    }
  }

  const tokenOf = async (words: string): Promise<string> =>
    /\b[0-9A-HJKMNP-TV-Z]{26}\b/.exec((await alice.manage(words)).stdout)?.[0] ?? 'NONE'

  const describeContainer = async () => (await rig.lxc('config', 'show', '--expanded', 'alice')).stdout
  const listInstances = async () => (await rig.lxc('list', '--format', 'csv', '--columns', 'n')).stdout

  /** What the database says of the archive. */
  function record(claims: Partial<Row>): void {
    const { sha256, size_bytes, uncompressed_bytes, compression } = { ...row, ...claims }
    inDatabase(database =>
      database
        .prepare('UPDATE snapshots SET sha256 = ?, size_bytes = ?, uncompressed_bytes = ?, compression = ?')
        .run(sha256, size_bytes, uncompressed_bytes, compression)
    )
  }

  /** Puts it there, and makes the database match it. */
  function plant(archive: Buffer, plainBytes: number, compression: Compression = 'zstd'): void {
    rmSync(path, { force: true })
    writeFileSync(path, archive)
    const sha256 = createHash('sha256').update(archive).digest('hex')
    record({ sha256, size_bytes: archive.length, uncompressed_bytes: plainBytes, compression })
  }

  const plantEntries = (entries: readonly Entry[]): void => {
    const tar = tarOf(entries)
    plant(zstd(tar), tar.length)
  }

  const recover = async () => alice.manage(`recover ${await tokenOf('recover')} ${row.name}`)

  /** Returns when berth has just opened the archive. */
  async function recoverUntilOpen() {
    const token = await tokenOf('recover')
    const ran = alice.manage(`recover ${token} ${row.name}`)
    const ended = ran.then(({ stderr }) => stderr)
    while (!isOpen(rig.pid, path)) {
      const why = await Promise.race([ended, sleep(1, undefined)])
      if (why !== undefined) throw new Error(`it ended too soon: ${why}`)
    }
    return { ran }
  }

  async function expectRefused(why: RegExp): Promise<void> {
    const { code, stderr } = await recover()
    expect(stderr).toContain('The archive is refused.')
    expect(stderr).toMatch(why)
    expect(code).toBe(65)
    const recoveries = (await rig.audit('alice')).filter(({ words }) => words.startsWith('recover ***'))
    expect(recoveries.toSorted((one, other) => one.id - other.id).at(-1)).toMatchObject({
      exitCode: 65,
      reason: 'archive-refused'
    })
    expect(await listInstances()).toBe('alice\n')
    expect(await describeContainer()).toBe(before)
  }

  /** The settings of an archive of alice's, with one thing changed. */
  const settings = (change: (backup: Backup) => void = () => {}) =>
    goodEntries(backup => {
      backup.container.name = row.instance
      backup.volume.name = row.instance
      change(backup)
    })

  const swap = (file: string, change: Partial<Entry>) =>
    settings().map(entry => (entry.path === file ? { ...entry, ...change } : entry))

  it('is brought in when nothing is wrong with it: what follows is refused for its one fault', async () => {
    plantEntries(settings())
    const recovered = await recover()
    expect(recovered, recovered.stderr).toMatchObject({ code: 0 })
    expect(await alice.manage('recover --undo')).toMatchObject({ code: 0 })
    const gone = (await listInstances()).split('\n').filter(name => name !== '' && name !== 'alice')
    expect(gone).toHaveLength(1)
    await rig.lxc('delete', gone[0] as string)
    before = await describeContainer()
  })

  const hostileSettings: [string, (backup: Backup) => void, RegExp][] = [
    ['privileged', ({ container }) => (container.config['security.privileged'] = 'true'), /security\.privileged/],
    ['raw.lxc', ({ container }) => (container.config['raw.lxc'] = 'lxc.mount.entry = / mnt none bind 0 0'), /raw\.lxc/],
    [
      'the disk of the host',
      ({ container }) => (container.devices['h'] = { type: 'disk', source: '/', path: '/mnt' }),
      /devices/
    ],
    [
      'a snapshot inside',
      backup => Object.assign(backup, { snapshots: [{ name: 'x', config: { 'raw.lxc': 'x' } }] }),
      /snapshots/
    ],
    ["another member's", ({ container }) => (container.name = 'bob-Copy-lk3j4h5g'), /name/]
  ]
  it.each(isLxd ? hostileSettings : hostileSettings.slice(0, 1))('is refused: %s', async (_, change, why) => {
    plantEntries(settings(change))
    await expectRefused(why)
  })

  const onLxd = isLxd ? it : () => {}

  onLxd('is refused when only backup.yaml is hostile, once or by a second one later in the tar', async () => {
    const hostile = backupOf(row.instance)
    hostile.container.config['security.privileged'] = 'true'
    const file = 'backup/container/backup.yaml'
    plantEntries(swap(file, { content: yaml(hostile) }))
    await expectRefused(/backup\.yaml .*security\.privileged/)
    plantEntries([...settings(), { path: file, content: yaml(hostile) }])
    await expectRefused(/out of order/)
    plantEntries([...settings(), { path: `./${file}`, content: yaml(hostile) }])
    await expectRefused(/could lead elsewhere/)
  })

  onLxd('is refused with a snapshot in it that only the tar and the index know', async () => {
    const hidden = { path: 'backup/snapshots', flag: '5' }
    plantEntries([...settings(), hidden])
    await expectRefused(/backup\/snapshots/)
    const index = { ...indexOf(backupOf(row.instance)), snapshots: ['x'] }
    plantEntries(swap('backup/index.yaml', { content: yaml(index) }))
    await expectRefused(/snapshots/)
  })

  const symlinks: [string, Partial<Entry>][] = [
    ['backup/container/rootfs', { flag: '2', target: '/' }],
    ['backup/container/templates', { flag: '2', target: '/etc' }],
    ['backup/container/metadata.yaml', { flag: '2', target: '/etc/shadow', content: '' }],
    ['backup/container/backup.yaml', { flag: '2', target: 'rootfs/backup.yaml', content: '' }]
  ]
  it.each(isLxd ? symlinks : symlinks.slice(0, 1))('is refused when %s is a symlink', async (file, change) => {
    plantEntries(swap(file, change))
    await expectRefused(/is not a (directory|regular file)/)
  })

  onLxd('is refused when a path in it leads out', async () => {
    const etc = 'backup/container/rootfs/etc'
    const beside = (entry: Entry) => settings().flatMap(one => (one.path === etc ? [one, entry] : [one]))
    plantEntries(beside({ path: `${etc}/../../../../../../etc/cron.d/x`, content: 'x' }))
    await expectRefused(/could lead elsewhere/)
    plantEntries(beside({ path: `${etc}/a`, flag: '1', target: 'backup/container/backup.yaml' }))
    await expectRefused(/hard link/)
  })

  it('is refused with more than one compressed frame, or anything after the end of the tar', async () => {
    const tar = tarOf(settings())
    plant(Buffer.concat([zstd(tar), zstd(tar)]), tar.length)
    await expectRefused(/second zstd frame/)
    plant(Buffer.concat([gzip(tar), gzip(tar)]), tar.length, 'gzip')
    await expectRefused(/second gzip member/)
    plant(zstd(Buffer.concat([tar, tar])), 2 * tar.length)
    await expectRefused(/after the end of the tar/)
  })

  onLxd('is refused when it unpacks to more than was recorded', async () => {
    const tar = tarOf(settings())
    const bomb = tarOf([
      ...settings().slice(0, -2),
      { path: 'backup/container/rootfs/zzz', content: Buffer.alloc(2 ** 26) }
    ])
    plant(zstd(bomb), tar.length)
    await expectRefused(/unpacks to more than/)
  })

  onLxd('is refused with one bit flipped or its end missing, whatever hash is recorded', async () => {
    const flipped = Buffer.from(good)
    flipped.writeUInt8(flipped.readUInt8(good.length >> 1) ^ 1, good.length >> 1)
    const cut = good.subarray(0, good.length - 70_000)
    for (const [archive, why] of [
      [flipped, /damaged|SHA-256/],
      [cut, /cut off/]
    ] as const) {
      plant(archive, row.uncompressed_bytes)
      await expectRefused(why)
      record({})
      await expectRefused(/damaged|SHA-256|bytes and not the/)
    }
  })

  onLxd('is refused when it is a symlink, even to the good one', async () => {
    const aside = join(nas, 'aside')
    writeFileSync(aside, good)
    record({})
    rmSync(path)
    symlinkSync(aside, path)
    await expectRefused(/symbolic link/)
    unlinkSync(path)
  })

  it('is refused when it changes while it is read', async () => {
    writeFileSync(path, good)
    record({})
    const recovering = await recoverUntilOpen()
    const file = openSync(path, 'r+')
    writeSync(file, Buffer.from('evil'), 0, 4, good.length - 100_000)
    closeSync(file)
    const { code, stderr } = await recovering.ran
    expect(stderr).toMatch(/The archive is refused\..*(damaged|SHA-256)/)
    expect(code).toBe(65)
    expect(await listInstances()).toBe('alice\n')
  })

  onLxd('has no effect when it takes the place of the file that is being read', async () => {
    writeFileSync(path, good)
    record({})
    const recovering = await recoverUntilOpen()
    const other = join(nas, 'other')
    writeFileSync(other, 'evil')
    renameSync(other, path)
    const recovered = await recovering.ran
    expect(recovered, recovered.stderr).toMatchObject({ code: 0 })
  })

  it('has cost the member nothing', async () => {
    const started = await alice.manage('start')
    expect(started, started.stderr).toMatchObject({ code: 0 })
    expect(await alice.login('cat kept')).toMatchObject({ code: 0, stdout: 'mine\n' })
  })
})

/** Whether the process, or one that it has started, has the file open. */
function isOpen(pid: number, path: string): boolean {
  const children = readdirSync(`/proc/${pid}/task`).flatMap(thread =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean)
  )
  return [String(pid), ...children].some(each => {
    try {
      return readdirSync(`/proc/${each}/fd`).some(fd => readlinkSync(`/proc/${each}/fd/${fd}`) === path)
    } catch {
      // It has ended, or closed a file, while it was looked at.
      return false
    }
  })
}
