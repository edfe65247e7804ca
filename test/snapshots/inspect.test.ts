import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkArchiveYaml } from '../../src/snapshots/archive-yaml.ts'
import { Inspection } from '../../src/snapshots/inspection.ts'
import type { UserError } from '../../src/errors.ts'
import { afterAll, describe, expect, it } from 'vitest'
import { inspectArchive, inspectPieces, type Claims, type Compression } from '../../src/snapshots/inspect.ts'
import {
  goodEntries,
  gzip,
  INSTANCE,
  indexOf,
  backupOf,
  tarOf,
  writeChecksum,
  yaml,
  zstd,
  type Backup,
  type Entry
} from './archive-builder.ts'

const directory = mkdtempSync(join(tmpdir(), 'berth-inspect-'))
afterAll(() => rmSync(directory, { recursive: true }))

const ROOTFS = 'backup/container/rootfs'
const GOOD = tarOf(goodEntries())
const pack = { zstd, gzip, none: (plain: Buffer) => plain }

interface Claimed {
  readonly compression?: Compression
  readonly uncompressedBytes?: number
  readonly sizeBytes?: number
  readonly sha256?: string
  readonly instanceName?: string
}

let files = 0

/** Given out as to the server, with everything recorded of it made to match unless told otherwise. */
async function forward(archive: Buffer, plainBytes: number, claimed: Claimed = {}) {
  const path = join(directory, `archive-${(files += 1)}`)
  writeFileSync(path, archive)
  const claims = {
    compression: 'zstd' as const,
    instanceName: INSTANCE,
    sizeBytes: archive.length,
    uncompressedBytes: plainBytes,
    sha256: createHash('sha256').update(archive).digest('hex'),
    ...claimed
  }
  const { sent, fault } = await collect(path, claims)
  return { why: fault && `${fault.reason}: ${fault.message}`, isWhole: sent.equals(archive), sentBytes: sent.length }
}

/** What is given out, copied at once since its memory is used again, and why no more. */
async function collect(path: string, claims: Claims): Promise<{ sent: Buffer; fault: UserError | undefined }> {
  await using file = await open(path)
  const chunks: Buffer[] = []
  try {
    for await (const piece of inspectPieces(file, claims)) chunks.push(Buffer.from(piece))
    return { sent: Buffer.concat(chunks), fault: undefined }
  } catch (error) {
    return { sent: Buffer.concat(chunks), fault: error as UserError }
  }
}

/** What is said of an archive all of whose records match it, given in pieces of 1000 bytes; undefined when it is approved. */
function judge(plain: Buffer, claimed: Claimed = {}): Promise<string | undefined> {
  return judgeBytes(pack[claimed.compression ?? 'zstd'](plain), plain.length, claimed)
}

async function judgeBytes(archive: Buffer, uncompressedBytes: number, claimed: Claimed): Promise<string | undefined> {
  const claims = { compression: 'zstd', instanceName: INSTANCE, uncompressedBytes, ...claimed } as const
  try {
    const inspection = new Inspection(claims, archive.length, (path, content) =>
      checkArchiveYaml(path, content, claims.instanceName)
    )
    for (let at = 0; at < archive.length; at += 1000) await inspection.write(archive.subarray(at, at + 1000))
    await inspection.end()
    return undefined
  } catch (error) {
    const { reason, message } = error as UserError
    return `${reason}: ${message}`
  }
}

const judgeEntries = (entries: readonly Entry[]) => judge(tarOf(entries))

/** The good entries with one put after `path`. */
function after(path: string, ...added: Entry[]): Entry[] {
  return goodEntries().flatMap(entry => (entry.path === path ? [entry, ...added] : [entry]))
}

const replace = (path: string, change: Partial<Entry>): Entry[] =>
  goodEntries().map(entry => (entry.path === path ? { ...entry, ...change } : entry))

describe('an archive as the server writes it', () => {
  it.each(['zstd', 'gzip', 'none'] as const)('is approved and given out whole: %s', async compression => {
    expect(await judge(GOOD, { compression })).toBeUndefined()
    expect(await forward(pack[compression](GOOD), GOOD.length, { compression })).toMatchObject({
      why: undefined,
      isWhole: true
    })
  })

  it('is not given out whole when it is refused', async () => {
    const hostile = tarOf(goodEntries(({ container }) => (container.config['raw.lxc'] = 'x')))
    const { why, isWhole, sentBytes } = await forward(zstd(hostile), hostile.length)
    expect(why).toMatch(/raw\.lxc/)
    expect(isWhole).toBe(false)
    expect(sentBytes).toBeLessThan(zstd(hostile).length)
  })

  it('is told what it is when nothing is claimed', async () => {
    const path = join(directory, 'unknown')
    writeFileSync(path, zstd(GOOD))
    await using file = await open(path)
    const contents = await inspectArchive(file, { compression: 'zstd', instanceName: INSTANCE })
    expect(contents).toEqual({
      sha256: createHash('sha256').update(zstd(GOOD)).digest('hex'),
      sizeBytes: zstd(GOOD).length,
      uncompressedBytes: GOOD.length
    })
  })

  it('is approved in whatever pieces it comes', async () => {
    const long = tarOf([...goodEntries().slice(0, -3), { path: `${ROOTFS}/zz`, content: noise(22_000_001) }])
    const path = join(directory, 'long')
    writeFileSync(path, zstd(long))
    const seen: number[] = []
    const claims = { compression: 'zstd', instanceName: INSTANCE } as const
    await using file = await open(path)
    const contents = await inspectArchive(file, claims, readBytes => seen.push(readBytes))
    const { sent } = await collect(path, { ...claims, ...contents })
    expect(sent.equals(zstd(long))).toBe(true)
    // More pieces than there is memory for at once.
    expect(seen.length).toBeGreaterThan(4)
    expect(seen.at(-1)).toBe(contents.sizeBytes)
  })
})

function noise(length: number): Buffer {
  const block = createHash('shake256', { outputLength: length }).update('noise').digest()
  return block
}

describe('settings', () => {
  const refused = (change: (backup: Backup) => void) => judgeEntries(goodEntries(change))

  it.each<[string, (backup: Backup) => void]>([
    ['security.privileged', ({ container }) => (container.config['security.privileged'] = 'true')],
    ['raw.lxc', ({ container }) => (container.config['raw.lxc'] = 'lxc.mount.entry = / mnt none bind 0 0')],
    ['raw.idmap', ({ container }) => (container.config['raw.idmap'] = 'both 0 0')],
    ['security.nesting', ({ container }) => (container.config['security.nesting'] = 'true')],
    ['boot.autostart', ({ container }) => (container.config['boot.autostart'] = 'true')],
    ['expanded only', ({ container }) => (container.expanded_config['security.privileged'] = 'true')],
    ['a key in other case', ({ container }) => (container.config['Security.Privileged'] = 'true')],
    [
      'a disk of the host',
      ({ container }) => (container.devices['host'] = { type: 'disk', source: '/', path: '/mnt' })
    ],
    [
      'a disk called mount0',
      ({ container }) => (container.devices['mount0'] = { type: 'disk', source: '/', path: '/mnt' })
    ],
    [
      'a root with a source',
      ({ container }) => (container.devices['root'] = { type: 'disk', path: '/', pool: 'default', source: '/' })
    ],
    [
      'a device node of the host',
      ({ container }) => (container.devices['sda'] = { type: 'unix-block', source: '/dev/sda' })
    ],
    [
      'an expanded device',
      ({ container }) => (container.expanded_devices['host'] = { type: 'disk', source: '/', path: '/mnt' })
    ],
    [
      'a proxy',
      ({ container }) =>
        (container.devices['ssh'] = { type: 'proxy', listen: 'tcp:0.0.0.0:22', connect: 'tcp:127.0.0.1:22' })
    ],
    [
      'an address',
      ({ container }) => (container.devices['eth0'] = { type: 'nic', network: 'berthbr0', 'ipv4.address': '10.0.0.2' })
    ],
    ['another profile', ({ container }) => container.profiles.push('privileged')],
    ['ephemeral', ({ container }) => Object.assign(container, { ephemeral: true })],
    ['a virtual machine', ({ container }) => (container.type = 'virtual-machine')],
    ['another instance', ({ container }) => (container.name = 'bob')],
    ['another volume', ({ volume }) => (volume.name = 'bob')],
    ['mount options', ({ volume }) => (volume.config['block.mount_options'] = 'suid,dev')],
    ['a snapshot inside', backup => Object.assign(backup, { snapshots: [{ name: 'snap0' }] })],
    ['a key nobody knows', backup => Object.assign(backup, { bucket: {} })]
  ])('are refused: %s', async (_, change) => {
    expect(await refused(change)).toMatch(/^archive-refused: In backup\/index\.yaml/)
  })

  it('are refused in backup.yaml alone, and in index.yaml alone', async () => {
    const hostile = backupOf()
    hostile.container.config['security.privileged'] = 'true'
    expect(await judgeEntries(replace('backup/container/backup.yaml', { content: yaml(hostile) }))).toMatch(
      /In backup\/container\/backup\.yaml under .*security\.privileged/
    )
    expect(await judgeEntries(replace('backup/index.yaml', { content: yaml(indexOf(hostile)) }))).toMatch(
      /In backup\/index\.yaml under .*security\.privileged/
    )
  })

  it.each<[string, object]>([
    ['optimized', { optimized: true }],
    ['an optimized header', { optimized_header: true }],
    ['a name elsewhere', { name: '../../etc' }],
    ['another type', { type: 'custom' }],
    ['snapshots', { snapshots: ['snap0'] }]
  ])('of the index are refused: %s', async (_, change) => {
    const index = { ...indexOf(backupOf()), ...change }
    expect(await judgeEntries(replace('backup/index.yaml', { content: yaml(index) }))).toMatch(/In backup\/index\.yaml/)
  })

  it('are refused for another user than the record is of', async () => {
    expect(await judge(GOOD, { instanceName: 'bob-Copy-lk3j4h5g' })).toMatch(/under "name"/)
  })
})

describe('YAML that two parsers could read differently', () => {
  const good = yaml(backupOf())
  const withLine = (line: string) => good.replace('  config:\n', `  config:\n    ${line}\n`)

  it.each<[string, string]>([
    ['a key twice', withLine('image.os: Debian')],
    ['an anchor', good.replace('default', '&a default')],
    ['an alias', good.replace('  config:\n', '  config: &a\n').replace('project: berth', 'project: *a')],
    ['a merge', withLine('<<: {}')],
    ['a tag', good.replace('name: default', 'name: !!str default')],
    ['a second document', `${good}---\n${good}`],
    ['a document before it', `---\n${good}`],
    ['an end and more', `${good}...\n${good}`],
    ['a directive', `%YAML 1.1\n---\n${good}`],
    ['a comment', `# x\n${good}`],
    ['a map in one line', good.replace('config: {}', 'config: {size: 1GiB}')],
    ['a key in the second line of a text', good.replace('description: ""', 'description: a\n    b: c')],
    ['a comment in the second line of a text', good.replace('description: ""', 'description: a\n    # b')],
    ['a text with an empty line', good.replace('description: ""', 'description: "a\n\n    b"')],
    ['a text that goes on at the margin', good.replace('description: ""', "description: 'a\nb'")],
    ['a text that is folded at more than a space', good.replace('description: ""', 'description: "a \n    b"')],
    ['a folded block of text', good.replace('description: ""', 'description: >\n    a')],
    ['a block of text', good.replace('description: ""', 'description: |\n    a')],
    ['a quoted key', good.replace('  name: default', '  "name": default')],
    ['a line separator of YAML 1.1', good.replace('Debian', 'Debian\u2028    raw.lxc: x')],
    ['a NEL', good.replace('Debian', 'Debian\u0085    raw.lxc: x')],
    ['a carriage return', good.replace('Debian', 'Debian\r    raw.lxc: x')],
    ['a tab', good.replace('image.os: ', 'image.os:\t')],
    ['a byte order mark', `\ufeff${good}`],
    ['another word for false', good.replace('ephemeral: false', 'ephemeral: off')],
    ['nesting without end', '['.repeat(30_000)],
    ['lists in lists without end', `${'- '.repeat(30_000)}x\n`],
    ['maps in maps without end', Array.from({ length: 300 }, (_, depth) => `${' '.repeat(depth)}a:\n`).join('')],
    ['nothing', '']
  ])('is refused: %s', async (_, content) => {
    expect(content).not.toBe(good)
    const bytes = Buffer.from(content, 'utf8')
    expect(await judgeEntries(replace('backup/container/backup.yaml', { content: bytes }))).toMatch(
      /^archive-refused: .*backup\.yaml/
    )
  })

  // As LXD 5.0.2 writes them in backups: folded by Go's yaml.v2 at 80 columns, in each of its three styles.
  it.each([
    'Debian 13 with cloud-init, ssh.socket and a user "ubuntu",\n        as cloud images have them',
    "'it''s: a long text of more than eighty columns, with a colon and some\n        quotes so that it is quoted'",
    '"\\L long text of more than eighty columns, with some strange\n        things, for double quotes \\a yes"',
    "'with a dash, see: no # and\n        - some - more - words'"
  ])('is taken when only folded: %s', async text => {
    const content = Buffer.from(withLine(`image.name: ${text}`))
    expect(await judgeEntries(replace('backup/container/backup.yaml', { content }))).toBeUndefined()
  })

  it('is refused when it is no UTF-8, or too large', async () => {
    const file = 'backup/container/backup.yaml'
    expect(await judgeEntries(replace(file, { content: Buffer.from('name: \xff', 'latin1') }))).toMatch(/control/)
    expect(await judgeEntries(replace(file, { content: `${good}${'a'.repeat(70_000)}: b\n` }))).toMatch(/too large/)
  })
})

describe('entries', () => {
  const etc = `${ROOTFS}/etc`

  it.each<[string, Entry[], RegExp]>([
    [
      'backup.yaml again at the end',
      [...goodEntries(), { path: 'backup/container/backup.yaml', content: 'x' }],
      /out of order/
    ],
    [
      'backup.yaml twice in a row',
      after('backup/container/backup.yaml', { path: 'backup/container/backup.yaml' }),
      /twice/
    ],
    [
      'index.yaml again',
      after('backup/index.yaml', { path: 'backup/index.yaml', content: 'x' }),
      /lies where no backup/
    ],
    ['index.yaml not first', goodEntries().slice(1), /does not begin with/],
    ['index.yaml as ./', replace('backup/index.yaml', { path: './backup/index.yaml' }), /does not begin with/],
    [
      'backup.yaml as ./',
      replace('backup/container/backup.yaml', { path: 'backup/container/./backup.yaml' }),
      /could lead elsewhere/
    ],
    [
      'backup.yaml with //',
      replace('backup/container/backup.yaml', { path: 'backup/container//backup.yaml' }),
      /could lead elsewhere/
    ],
    [
      'backup.yaml in other case',
      replace('backup/container/backup.yaml', { path: 'backup/container/Backup.yaml' }),
      /nothing a backup has/
    ],
    ['backup.yaml missing', goodEntries().filter(({ path }) => !path.endsWith('backup.yaml')), /has no .*backup\.yaml/],
    [
      'backup.yaml as a symlink',
      replace('backup/container/backup.yaml', { flag: '2', target: 'rootfs/evil', content: '' }),
      /not a regular file/
    ],
    [
      'backup.yaml as a hard link',
      replace('backup/container/backup.yaml', { flag: '1', target: 'backup/index.yaml', content: '' }),
      /not a regular file/
    ],
    [
      'metadata.yaml as a symlink',
      replace('backup/container/metadata.yaml', { flag: '2', target: '/etc/shadow', content: '' }),
      /not a regular file/
    ],
    ['rootfs as a symlink', replace(ROOTFS, { flag: '2', target: '/' }), /is not a directory/],
    ['rootfs as a file', replace(ROOTFS, { flag: '0' }), /is not a directory/],
    ['no rootfs', goodEntries().filter(({ path }) => !path.startsWith(ROOTFS)), /has no .*rootfs/],
    ['the container as a symlink', replace('backup/container', { flag: '2', target: '/' }), /is not a directory/],
    [
      'templates as a symlink',
      replace('backup/container/templates', { flag: '2', target: '/etc' }),
      /is not a directory/
    ],
    [
      'a template as a symlink',
      replace('backup/container/templates/hostname.tpl', { flag: '2', target: '/etc/shadow', content: '' }),
      /not a regular file/
    ],
    [
      'a file beside rootfs',
      after('backup/container/metadata.yaml', { path: 'backup/container/root.img' }),
      /nothing a backup has/
    ],
    ['a snapshot', [...goodEntries(), { path: 'backup/snapshots', flag: '5' }], /lies where no backup/],
    [
      'an optimized volume',
      after('backup/index.yaml', { path: 'backup/container.bin', content: 'x' }),
      /lies where no backup/
    ],
    ['a virtual machine', [...goodEntries(), { path: 'backup/virtual-machine', flag: '5' }], /lies where no backup/],
    ['a path up', after(etc, { path: `${etc}/../../../../x` }), /could lead elsewhere/],
    ['an absolute path', after('backup/index.yaml', { path: '/etc/cron.d/x' }), /could lead elsewhere/],
    [
      'a file below a symlink',
      after(`${ROOTFS}/bin`, { path: `${ROOTFS}/bin/sh`, content: 'x' }),
      /below what is not a directory/
    ],
    ['a file below a file', after(`${etc}/hostname`, { path: `${etc}/hostname/x` }), /below what is not a directory/],
    ['a file without its directory', after(etc, { path: `${etc}/a/b` }), /below what is not a directory/],
    ['a file twice', after(`${etc}/hostname`, { path: `${etc}/hostname`, flag: '2', target: '/' }), /twice/],
    ['a file out of order', after(`${etc}/hostname`, { path: `${etc}/aa` }), /out of order/],
    [
      'a hard link out',
      after(etc, { path: `${etc}/a`, flag: '1', target: 'backup/container/backup.yaml' }),
      /hard link/
    ],
    [
      'a hard link up',
      after(etc, { path: `${etc}/a`, flag: '1', target: `${ROOTFS}/../backup.yaml` }),
      /could lead elsewhere/
    ],
    [
      'a hard link absolute',
      after(etc, { path: `${etc}/a`, flag: '1', target: '/etc/shadow' }),
      /could lead elsewhere/
    ],
    [
      'a hard link to what comes later',
      after(etc, { path: `${etc}/a`, flag: '1', target: `${ROOTFS}/zz` }),
      /hard link/
    ],
    ['a disk', after(`${ROOTFS}/dev`, { path: `${ROOTFS}/dev/a`, flag: '4', device: [8, 0] }), /device node 8:0/],
    ['memory', after(`${ROOTFS}/dev`, { path: `${ROOTFS}/dev/mem`, flag: '3', device: [1, 1] }), /device node 1:1/],
    ['a long name in GNU form', after(etc, { path: '././@LongLink', flag: 'L', content: `${etc}/x\0` }), /type "L"/],
    ['a global header', after(etc, { path: 'x', flag: 'g', content: '11 path=x\n' }), /type "g"/],
    ['a sparse file', after(etc, { path: `${etc}/a`, flag: 'S' }), /type "S"/],
    ['a file of old', after(etc, { path: `${etc}/a`, flag: '\0' }), /type/],
    ['a directory with content', after(etc, { path: `${etc}/a`, flag: '5', content: 'x' }), /has content/],
    [
      'a link with content',
      after(`${etc}/hostname`, { path: `${etc}/i`, flag: '1', target: `${etc}/hostname`, content: 'x' }),
      /has content/
    ],
    ['a file with a target', after(etc, { path: `${etc}/a`, target: 'x' }), /link's target/],
    ['a directory by its slash', after(etc, { path: `${etc}/a/` }), /could lead elsewhere/],
    [
      'another path in the extended header',
      after(etc, { path: `${etc}/a`, extended: { path: 'backup/container/backup.yaml' } }),
      /out of order/
    ],
    [
      'another size in the extended header',
      after(etc, { path: `${etc}/a`, content: 'x'.repeat(600), extended: { size: '0' } }),
      /not a tar|damaged/
    ],
    ['a NUL in the path', after(etc, { path: `${etc}/a`, extended: { path: `${etc}/a\0b` } }), /bad path/],
    ['a sparse map', after(etc, { path: `${etc}/a`, extended: { 'GNU.sparse.name': 'x' } }), /GNU\.sparse\.name/],
    [
      'two extended headers',
      after(etc, { path: 'x', flag: 'x', content: `${`24 path=${etc}/a`.length + 1} path=x\n` }),
      /malformed/
    ],
    ['bytes behind a name', after(etc, { path: `${etc}/a`, tamper: block => block.write('evil', 80) }), /hides bytes/],
    [
      'a size in base 256',
      after(etc, { path: `${etc}/a`, tamper: block => block.writeUInt8(0x80, 124) }),
      /number in a form/
    ],
    ['a checksum that is none', after(etc, { path: `${etc}/a`, checksum: false }), /damaged/],
    [
      'GNU magic',
      after(etc, { path: `${etc}/a`, tamper: block => block.write('ustar  \0', 257, 'latin1') }),
      /not a tar/
    ]
  ])('are refused: %s', async (_, entries, why) => {
    const said = await judgeEntries(entries)
    expect(said).toMatch(/^archive-refused: /)
    expect(said).toMatch(why)
  })

  it('may have a name of any bytes, and xattrs that hold what looks like a record', async () => {
    const name = `${ROOTFS}/etc/${'\xff\xfe ä\n'.repeat(40)}`
    expect(
      await judgeEntries(after(`${ROOTFS}/etc`, { path: `${etc}/a`, extended: { path: name.replaceAll('ä', 'a') } }))
    ).toMatch(/out of order/)
    expect(
      await judgeEntries(after(`${etc}/hostname.orig`, { path: `${etc}/z`, extended: { path: name } }))
    ).toBeUndefined()
  })
})

describe('the ends', () => {
  const blocks = (count: number) => Buffer.alloc(512 * count)
  const open = GOOD.subarray(0, -1024)

  it.each<[string, Buffer, RegExp]>([
    ['more blocks of zeros', Buffer.concat([GOOD, blocks(1)]), /bytes after the end/],
    ['bytes after it', Buffer.concat([GOOD, Buffer.from('x')]), /bytes after the end/],
    ['a second tar after it', Buffer.concat([GOOD, GOOD]), /bytes after the end/],
    ['entries after one block of zeros', Buffer.concat([open, blocks(1), open, blocks(2)]), /entries after the end/],
    ['no end', open, /no end/],
    ['half an end', GOOD.subarray(0, -512), /no end/],
    ['an entry cut off', GOOD.subarray(0, 9 * 512 + 7), /no end/],
    ['nothing at all', Buffer.alloc(0), /no end/],
    ['bytes in the padding', tamperPadding(), /between two entries/]
  ])('of the tar are refused: %s', async (_, plain, why) => {
    expect(await judge(plain, { compression: 'none' })).toMatch(why)
    expect(await judge(plain)).toMatch(why)
  })

  function tamperPadding(): Buffer {
    const tar = Buffer.from(GOOD)
    const at = 512 + yaml(indexOf(backupOf())).length
    expect(tar[at]).toBe(0)
    tar[at] = 1
    return tar
  }

  const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4])

  it.each<[string, Compression, Buffer, RegExp]>([
    ['a second frame', 'zstd', Buffer.concat([zstd(GOOD), zstd(GOOD)]), /second zstd frame/],
    ['the tar in two frames', 'zstd', Buffer.concat([zstd(open), zstd(blocks(2))]), /second zstd frame/],
    ['an empty second frame', 'zstd', Buffer.concat([zstd(GOOD), zstd(Buffer.alloc(0))]), /second zstd frame/],
    ['a skippable frame after it', 'zstd', Buffer.concat([zstd(GOOD), skippable]), /second zstd frame/],
    ['a skippable frame before it', 'zstd', Buffer.concat([skippable, zstd(GOOD)]), /not compressed with zstd/],
    ['a gzip member after it', 'zstd', Buffer.concat([zstd(GOOD), gzip(GOOD)]), /second zstd frame/],
    ['one byte after it', 'zstd', Buffer.concat([zstd(GOOD), Buffer.alloc(1)]), /second zstd frame/],
    ['a frame cut off', 'zstd', zstd(GOOD).subarray(0, -5), /cut off/],
    ['a window of 2 GiB', 'zstd', widenWindow(), /too much memory/],
    ['gzip where zstd was recorded', 'zstd', gzip(GOOD), /not compressed with zstd/],
    ['zstd where gzip was recorded', 'gzip', zstd(GOOD), /not compressed with gzip/],
    ['zstd where none was recorded', 'none', zstd(GOOD), /damaged|not a tar/],
    ['a second member', 'gzip', Buffer.concat([gzip(GOOD), gzip(GOOD)]), /second gzip member/],
    ['the tar in two members', 'gzip', Buffer.concat([gzip(open), gzip(blocks(2))]), /second gzip member/],
    ['zeros after the member', 'gzip', Buffer.concat([gzip(GOOD), blocks(1)]), /second gzip member/],
    ['a zstd frame after it', 'gzip', Buffer.concat([gzip(GOOD), zstd(GOOD)]), /second gzip member/],
    ['a member cut off', 'gzip', gzip(GOOD).subarray(0, -9), /damaged/],
    ['a member with a name', 'gzip', withFlag(), /not compressed with gzip/],
    ['a wrong checksum', 'gzip', flip(gzip(GOOD), -6), /damaged/],
    ['a wrong length', 'gzip', flip(gzip(GOOD), -1), /damaged/]
  ])('of the compression are refused: %s', async (_, compression, archive, why) => {
    const said = await judgeBytes(archive, GOOD.length, { compression })
    expect(said).toMatch(why)
  })

  function widenWindow(): Buffer {
    const frame = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8])
    return Buffer.concat([frame, Buffer.alloc(100)])
  }

  function withFlag(): Buffer {
    const archive = gzip(GOOD)
    return Buffer.concat([
      archive.subarray(0, 3),
      Buffer.from([8]),
      archive.subarray(4, 10),
      Buffer.from('x\0'),
      archive.subarray(10)
    ])
  }

  it('are refused of a bomb as soon as it is larger than was recorded, before it is read to its end', async () => {
    const bomb = zstd(
      tarOf([...goodEntries().slice(0, -3), { path: `${ROOTFS}/zz`, content: Buffer.alloc(300 * 2 ** 20) }])
    )
    const { why, sentBytes } = await forward(bomb, GOOD.length)
    expect(why).toMatch(/unpacks to more than the/)
    expect(sentBytes).toBeLessThan(bomb.length)
  })
})

function flip(archive: Buffer, at: number): Buffer {
  const flipped = Buffer.from(archive)
  flipped.writeUInt8((flipped.at(at) as number) ^ 1, (at + archive.length) % archive.length)
  return flipped
}

describe('the record', () => {
  it.each<[string, Claimed, RegExp]>([
    ['another hash', { sha256: '0'.repeat(64) }, /SHA-256 is not the one/],
    ['another size', { sizeBytes: 1 }, /bytes and not the 1 that/],
    ['fewer bytes inside', { uncompressedBytes: GOOD.length - 512 }, /unpacks to more/],
    ['more bytes inside', { uncompressedBytes: GOOD.length + 512 }, /unpacks to .* and not/]
  ])('is not what was found: %s', async (_, claimed, why) => {
    expect(await judge(GOOD, claimed)).toMatch(why)
  })

  it('finds any flipped bit', async () => {
    const archive = zstd(GOOD)
    const sha256 = createHash('sha256').update(archive).digest('hex')
    for (const at of [0, 4, 5, 9, Math.floor(archive.length / 2), archive.length - 1]) {
      const { why, isWhole } = await forward(flip(archive, at), GOOD.length, { sha256 })
      expect(why).toMatch(/^archive-refused/)
      expect(isWhole).toBe(false)
    }
  })
})

describe('a file that changes while it is read', () => {
  const big = tarOf([...goodEntries().slice(0, -3), { path: `${ROOTFS}/zz`, content: noise(16 * 2 ** 20) }])

  /** Reads the first piece, then lets `meddle` do something to the file. */
  async function meddled(meddle: (path: string) => Promise<void>): Promise<string> {
    const path = join(directory, `meddled-${(files += 1)}`)
    writeFileSync(path, big)
    const claims = {
      compression: 'none',
      instanceName: INSTANCE,
      sizeBytes: big.length,
      uncompressedBytes: big.length
    } as const
    const sha256 = createHash('sha256').update(big).digest('hex')
    await using file = await open(path)
    const pieces = inspectPieces(file, { ...claims, sha256 })
    await pieces.next()
    await meddle(path)
    for (;;) {
      try {
        if ((await pieces.next()).done) return 'approved'
      } catch (error) {
        return (error as Error).message
      }
    }
  }

  it('is refused when its bytes change', async () => {
    const said = await meddled(async path => {
      const file = await open(path, 'r+')
      await file.write(Buffer.from('evil'), 0, 4, big.length - 600_000)
      await file.close()
    })
    expect(said).toMatch(/SHA-256/)
  })

  it('is refused when it is cut', async () => {
    const said = await meddled(async path => {
      const file = await open(path, 'r+')
      await file.truncate(big.length - 600_000)
      await file.close()
    })
    expect(said).toMatch(/shorter/)
  })

  it('is refused when it grows', async () => {
    const said = await meddled(async path => {
      const file = await open(path, 'a')
      await file.write('more')
      await file.close()
    })
    expect(said).toMatch(/longer/)
  })
})

it('knows a good header block when it makes one', () => {
  const block = Buffer.from(GOOD.subarray(0, 512))
  writeChecksum(block)
  expect(block.equals(GOOD.subarray(0, 512))).toBe(true)
})
