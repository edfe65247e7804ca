import { isMap, isScalar, isSeq, parseDocument, Scalar, visit, type Node } from 'yaml'
import { z } from 'zod'
import { INDEX_YAML } from './archive-layout.ts'
import { quote, refuseArchive } from './archive-refusal.ts'

// Every scalar is read as its text, so `false` here is the word that LXD writes and not `no` or `off`, which Go's parser takes too.

const flag = z.enum(['true', 'false'])
const off = z.literal('false')
const text = z.string().max(4096)
const name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/)
const digits = z.string().regex(/^\d{1,20}$/)
const size = z.string().regex(/^\d{1,20}([kMGT]?i?B)?$/)
const absent = z.array(z.never()).optional()

/** Settings by pattern of their key; a key that matches none is refused. */
function settings(...allowed: [key: RegExp, value: z.ZodType<string>][]) {
  return z.record(text, text).superRefine((map, context) => {
    for (const [key, value] of Object.entries(map)) {
      const rule = allowed.find(([pattern]) => pattern.test(key))?.[1]
      if (rule?.safeParse(value).success) continue
      const message = rule ? `${quote(key)} is set to ${quote(value)}` : `${quote(key)} is set`
      context.addIssue({ code: 'custom', message: `${message}, which berth never does` })
    }
  })
}

/** A device of exactly these keys. */
const device = <Shape extends z.ZodRawShape>(shape: Shape) => z.strictObject(shape)

const ownConfig: Parameters<typeof settings> = [
  [/^image\.[A-Za-z0-9._-]+$/, text],
  [/^volatile\.(apply_template|base_image|cloud-init\.instance-id|uuid|uuid\.generation)$/, text],
  [/^volatile\.(idmap\.(base|current|next)|last_state\.(idmap|power|ready))$/, text],
  // Names and addresses of the NIC's last run: dropped once imported.
  [/^volatile\.eth0\.[a-z0-9_.]+$/, text],
  [/^security\.idmap\.base$/, digits],
  [/^security\.idmap\.isolated$/, flag]
]
/** What the profile adds. The server takes nothing of it from an archive. */
const profileConfig: Parameters<typeof settings> = [
  [/^limits\.(cpu|memory|processes)$/, text],
  [/^security\.nesting$/, flag]
]

const root = device({ type: z.literal('disk'), path: z.literal('/'), pool: name, size: size.optional() })
const eth0 = device({
  type: z.literal('nic'),
  name: z.literal('eth0').optional(),
  network: name,
  'security.mac_filtering': flag.optional(),
  'security.ipv4_filtering': flag.optional(),
  'security.ipv6_filtering': flag.optional(),
  'security.port_isolation': flag.optional()
})
const mount = device({ type: z.literal('disk'), source: text, path: text })
const gpu = z.union([
  device({ type: z.literal('gpu'), gputype: z.literal('physical'), pci: text, mode: z.literal('0666') }),
  device({
    type: z.literal('unix-char'),
    source: z.string().regex(/^\/dev\//),
    path: z.string().regex(/^\/dev\//),
    mode: z.literal('0666'),
    required: off
  })
])

const ownDevices = z.strictObject({ root: root.optional(), eth0: eth0.optional() })
/** With the profile's, which the archive only mentions. */
const allDevices = z.record(text, z.unknown()).superRefine((devices, context) => {
  for (const [key, value] of Object.entries(devices)) {
    const rule = /^mount\d+$/.test(key) ? mount : /^gpu\d+$/.test(key) ? gpu : { root, eth0 }[key]
    if (!rule?.safeParse(value).success)
      context.addIssue({ code: 'custom', message: `there is a device ${quote(key)} that berth never makes` })
  }
})

const profiles = z.array(z.literal('berth')).max(1)

const backup = (instanceName: string) =>
  z.strictObject({
    container: z.strictObject({
      name: z.literal(instanceName),
      type: z.literal('container'),
      architecture: name,
      config: settings(...ownConfig),
      devices: ownDevices,
      profiles,
      ephemeral: off,
      stateful: off,
      description: text,
      expanded_config: settings(...ownConfig, ...profileConfig),
      expanded_devices: allDevices,
      created_at: text,
      last_used_at: text,
      status: text,
      status_code: digits,
      location: text,
      project: text
    }),
    pool: z.strictObject({
      name,
      driver: name,
      config: z.record(text, text),
      description: text,
      status: text,
      used_by: z.array(text),
      locations: z.array(text)
    }),
    // All of the project's, as they were then. The server takes its own.
    profiles: z.array(z.unknown()).optional(),
    volume: z.strictObject({
      name: z.literal(instanceName),
      type: z.literal('container'),
      content_type: z.literal('filesystem'),
      config: settings(
        [/^(size|volatile\.rootfs\.size|zfs\.blocksize)$/, size],
        [/^volatile\.uuid$/, text],
        [/^zfs\.(remove_snapshots|use_refquota|reserve_space|block_mode|delegate)$/, flag],
        [/^block\.filesystem$/, z.enum(['ext4', 'xfs', 'btrfs'])],
        [/^block\.mount_options$/, z.literal('discard')]
      ),
      description: text,
      used_by: z.array(text),
      location: text,
      project: text,
      created_at: text
    }),
    // A snapshot inside would have a configuration of its own.
    snapshots: absent,
    volume_snapshots: absent
  })

const index = (instanceName: string) =>
  z.strictObject({
    name: z.literal(instanceName),
    backend: name,
    pool: name,
    type: z.literal('container'),
    optimized: off,
    optimized_header: off,
    snapshots: absent,
    config: backup(instanceName)
  })

/**
 * Checks backup/index.yaml, from which the server decides how to unpack, or backup/container/backup.yaml, from which it makes the
 * instance. The first has a copy of the second in it, and which of them is believed differs between servers.
 * @throws UserError `archive-refused`
 */
export function checkArchiveYaml(path: string, content: Uint8Array, instanceName: string): void {
  const schema = path === INDEX_YAML ? index(instanceName) : backup(instanceName)
  const parsed = schema.safeParse(parsePlainYaml(path, content))
  if (parsed.success) return
  const [issue] = parsed.error.issues
  const where = issue?.path.join('.') ?? ''
  refuseArchive(`In ${path}${where === '' ? '' : ` under ${quote(where)}`}: ${issue?.message ?? 'not as expected'}.`)
}

/**
 * Reads only what YAML 1.1 (Go's parser, the server's) and YAML 1.2 (ours) read the same: one document of block maps and lists,
 * each key once, no block scalars, no anchors, aliases, tags, merges, directives or comments. Every scalar is a string.
 */
function parsePlainYaml(file: string, content: Uint8Array): unknown {
  const refuse = (what: string): never => refuseArchive(`${file} has ${what}, which no server writes.`)
  const source = decodeUtf8(content)
  // NEL and the line separators end a line in YAML 1.1 only; a byte order mark changes the encoding.
  if (
    source === undefined ||
    !/^[\n\x20-\x7e\u00a1-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\u{10000}-\u{10ffff}]*$/u.test(source)
  )
    return refuse('control characters')
  if (/^(%|---|\.\.\.)/m.test(source)) return refuse('a directive or a second document')
  // The parser calls itself for each level: `[[[[` and `- - - -` without end would take its stack.
  if (/^ {64}|[[{]{16}|^ *(- ?){4}/m.test(source)) return refuse('deep nesting')
  const document = parseDocument(source, { schema: 'failsafe', uniqueKeys: true, strict: true, stringKeys: true })
  const fault = document.errors[0] ?? document.warnings[0]
  if (fault) return refuse(`a fault (${fault.code})`)
  if (document.comment !== null || document.commentBefore !== null) refuse('a comment')
  visit(document, {
    Alias: () => refuse('an alias'),
    Pair: (_, { key }) => {
      if (!isScalar(key) || key.type !== Scalar.PLAIN || !/^[A-Za-z0-9._/-]+$/.test(String(key.value)))
        refuse('an unusual key')
    },
    Node: (_, node) => checkNode(node, source, refuse)
  })
  return document.toJS({ maxAliasCount: 0 }) as unknown
}

function checkNode(node: Node, source: string, refuse: (what: string) => never): void {
  if ('anchor' in node && node.anchor !== undefined) refuse('an anchor')
  if (node.tag !== undefined) refuse('a tag')
  if (typeof (node.comment ?? node.commentBefore) === 'string') refuse('a comment')
  if ((isMap(node) || isSeq(node)) && node.flow === true && node.items.length > 0) refuse('a collection in one line')
  if (!isScalar(node)) return
  if (!isOneLineOrFolded(node, source.slice(node.range?.[0], node.range?.[1]))) refuse('text of several lines')
}

/** Does it stand on one line, or on more as LXD's Go writes what is longer than 80 columns: a line end for one space between words? */
function isOneLineOrFolded({ type }: Scalar, text: string): boolean {
  const isBlock = type === Scalar.BLOCK_FOLDED || type === Scalar.BLOCK_LITERAL
  return !text.includes('\n') || (!isBlock && !/(^|[ \n])\n|\n(?! +[^ \n])/.test(text))
}

function decodeUtf8(content: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf8', { fatal: true, ignoreBOM: true }).decode(content)
  } catch {
    return undefined
  }
}
