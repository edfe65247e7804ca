import { crc32, gzipSync, zstdCompressSync } from 'node:zlib'
import { stringify } from 'yaml'

/** One entry of a tar; what is not given is as Go's archive/tar writes it. */
export interface Entry {
  readonly path: string
  /** tar's type flag; a file when there is none. */
  readonly flag?: string
  readonly content?: string | Buffer
  readonly target?: string
  readonly device?: readonly [major: number, minor: number]
  /** Records of an extended header before it. */
  readonly extended?: Record<string, string>
  /** Changes the finished header block, before its checksum is made unless `checksum` is false. */
  readonly tamper?: (block: Buffer) => void
  readonly checksum?: false
}

export const INSTANCE = 'alice-Copy-lk3j4h5g'

/** What LXD writes of a copy, small: the settings of an archive that must be approved. */
export function backupOf(name = INSTANCE) {
  const config = {
    'image.description':
      'Debian 12 with "sshd" and a description that takes more columns than the 80 of a line in YAML',
    'image.os': 'Debian',
    'image.release': '12',
    'volatile.base_image': '59d118b21adb',
    'volatile.idmap.next': '[{"Isuid":true,"Isgid":false,"Hostid":165536,"Nsid":0,"Maprange":65536}]',
    'volatile.last_state.idmap': '[]',
    'security.idmap.base': '165536'
  }
  const root = { path: '/', pool: 'default', type: 'disk' }
  return {
    container: {
      architecture: 'x86_64',
      config: config as Record<string, string>,
      devices: { root } as Record<string, Record<string, string>>,
      ephemeral: false,
      profiles: [] as string[],
      stateful: false,
      description: 'berth: alice, to be archived',
      created_at: '2026-11-22T22:18:20.148911465Z',
      expanded_config: { ...config } as Record<string, string>,
      expanded_devices: { root } as Record<string, Record<string, string>>,
      name,
      status: 'Stopped',
      status_code: 102,
      last_used_at: '1970-01-01T00:00:00Z',
      location: 'none',
      type: 'container',
      project: 'berth'
    },
    pool: {
      config: { size: '12GiB', source: '/var/lib/lxd/disks/default.img' },
      description: '',
      name: 'default',
      driver: 'btrfs',
      used_by: [],
      status: 'Created',
      locations: ['none']
    },
    volume: {
      config: {} as Record<string, string>,
      description: '',
      name,
      type: 'container',
      used_by: [],
      location: 'none',
      content_type: 'filesystem',
      project: 'berth',
      created_at: '0001-01-01T00:00:00Z'
    }
  }
}

export type Backup = ReturnType<typeof backupOf>

export const indexOf = (config: Backup) => ({
  name: config.container.name,
  backend: 'btrfs',
  pool: 'default',
  optimized: false,
  optimized_header: false,
  type: 'container',
  config
})

/** As LXD's Go writes it: folded, text that looks like something else in quotes. */
export const yaml = (value: unknown): string =>
  stringify(value, { lineWidth: 80, version: '1.1', aliasDuplicateObjects: false })

const ROOTFS = 'backup/container/rootfs'

/** A whole good archive in the order of the walk; `change` edits the settings in both files. */
export function goodEntries(change: (backup: Backup) => void = () => {}): Entry[] {
  const backup = backupOf()
  change(backup)
  return [
    { path: 'backup/index.yaml', content: yaml(indexOf(backup)) },
    { path: 'backup/container', flag: '5' },
    { path: 'backup/container/backup.yaml', content: yaml(backup) },
    { path: 'backup/container/metadata.yaml', content: 'architecture: x86_64\n' },
    { path: ROOTFS, flag: '5' },
    { path: `${ROOTFS}/bin`, flag: '2', target: 'usr/bin' },
    { path: `${ROOTFS}/dev`, flag: '5' },
    { path: `${ROOTFS}/dev/null`, flag: '3', device: [1, 3] },
    { path: `${ROOTFS}/etc`, flag: '5' },
    { path: `${ROOTFS}/etc/hostname`, content: 'alice\n' },
    { path: `${ROOTFS}/etc/hostname.orig`, flag: '1', target: `${ROOTFS}/etc/hostname` },
    { path: `${ROOTFS}/etc.d`, flag: '5' },
    {
      path: `${ROOTFS}/ping`,
      content: 'x',
      extended: { 'SCHILY.xattr.security.capability': '\x01\0\n\x02\n13 path=evil\n' }
    },
    { path: `${ROOTFS}/zz`, content: Buffer.alloc(70_000, 'z') },
    { path: 'backup/container/templates', flag: '5' },
    { path: 'backup/container/templates/hostname.tpl', content: '{{ container.name }}\n' }
  ]
}

/** The tar of these entries, ended by its two blocks of zeros. */
export function tarOf(entries: readonly Entry[]): Buffer {
  return Buffer.concat([...entries.flatMap(entryOf), Buffer.alloc(1024)])
}

function entryOf({ path, flag = '0', content = '', target = '', device = [0, 0], ...rest }: Entry): Buffer[] {
  const body = Buffer.isBuffer(content) ? content : Buffer.from(content, 'latin1')
  const extended = { ...(Buffer.byteLength(path) > 100 && { path }), ...rest.extended }
  const before =
    Object.keys(extended).length === 0
      ? []
      : entryOf({ path: 'PaxHeaders.0/x', flag: 'x', content: recordsOf(extended) })
  return [
    ...before,
    headerOf({ path, flag, target, device, sizeBytes: body.length, ...rest }),
    body,
    paddingOf(body.length)
  ]
}

function recordsOf(records: Record<string, string>): string {
  return Object.entries(records)
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`
      const length = rest.length + String(rest.length + 2).length
      return `${length}${rest}`
    })
    .join('')
}

interface Header
  extends Required<Pick<Entry, 'path' | 'flag' | 'target' | 'device'>>, Pick<Entry, 'tamper' | 'checksum'> {
  readonly sizeBytes: number
}

function headerOf({ path, flag, target, device, sizeBytes, tamper, checksum }: Header): Buffer {
  const block = Buffer.alloc(512)
  const octal = (value: number, at: number, length: number) =>
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1')
  block.write(path.slice(0, 100), 0, 'latin1')
  octal(0o644, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(sizeBytes, 124, 12)
  octal(1_700_000_000, 136, 12)
  block.write(flag, 156, 'latin1')
  block.write(target.slice(0, 100), 157, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  block.write('root', 265, 'latin1')
  block.write('root', 297, 'latin1')
  octal(device[0], 329, 8)
  octal(device[1], 337, 8)
  tamper?.(block)
  if (checksum !== false) writeChecksum(block)
  return block
}

export function writeChecksum(block: Buffer): void {
  block.write('        ', 148, 'latin1')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
}

const paddingOf = (length: number): Buffer => Buffer.alloc((512 - (length % 512)) % 512)

export const zstd = (plain: Buffer): Buffer => zstdCompressSync(plain)

/** As `gzip -n` writes it. */
export function gzip(plain: Buffer): Buffer {
  const packed = gzipSync(plain)
  packed.writeUInt32LE(0, 4)
  packed[8] = 0
  packed[9] = 3
  if (packed.readUInt32LE(packed.length - 8) !== crc32(plain)) throw new Error('not the gzip this test knows')
  return packed
}
