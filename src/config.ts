import { existsSync, readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { isAbsolute, normalize, relative, resolve } from 'node:path'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { parseCron } from './config/cron.ts'
import { UserError } from './errors.ts'

export const DEFAULT_CONFIG_PATH = '/etc/berth/berth.yaml'

const GIB = 2 ** 30
const UNITS: Record<string, number> = {
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: GIB,
  TiB: 2 ** 40
}

/** `32GiB`, `500MB`, or a plain count of bytes → bytes. LXD's own unit names. */
const size = z.union([z.number().int().positive(), z.string()]).transform((value, context) => {
  if (typeof value === 'number') return value
  const match = /^(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B)$/.exec(value)
  const unit = UNITS[match?.[2] ?? '']
  if (!match || unit === undefined) {
    context.addIssue({ code: 'custom', message: 'expected a size such as 32GiB' })
    return z.NEVER
  }
  return Math.round(Number(match[1]) * unit)
})
const SPANS_MS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
/** `24h`, `7d`, `30m` → milliseconds. */
const span = z.string().transform((value, context) => {
  const [, count, unit = ''] = /^(\d{1,6})([smhd])$/.exec(value) ?? []
  if (count !== undefined) return Number(count) * (SPANS_MS[unit] as number)
  context.addIssue({ code: 'custom', message: 'expected a time such as 24h or 7d' })
  return z.NEVER
})
const unlimited = z.literal('unlimited')
const port = z.number().int().min(1).max(65535)
const absolutePath = z
  .string()
  .refine(
    path => isAbsolute(path) && normalize(path) === path.replace(/(.)\/$/, '$1'),
    'expected an absolute path without . or ..'
  )
const ip = z.string().refine(text => isIP(text) !== 0, 'expected an IP address')
const hostName = z.string().regex(/^(?!-)[A-Za-z0-9.:-]{1,253}$/, 'expected a host name or an IP address')
const cidr = z.string().refine(text => {
  const [address, bits, rest] = text.split('/')
  const version = isIP(address ?? '')
  return (
    rest === undefined && version !== 0 && /^\d{1,3}$/.test(bits ?? '') && Number(bits) <= (version === 4 ? 32 : 128)
  )
}, 'expected a network such as 10.0.0.0/24')
/** LXD's rule for names of projects, pools, networks and images, narrowed to what never needs quoting. */
const lxdName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'expected a name of letters, digits, dot, dash and underscore')
const nodeName = z.string().regex(/^[a-z][a-z0-9-]{0,30}$/, 'expected a node name such as gpu1')
const portRange = z
  .strictObject({ from: port, to: port, exclude: z.array(port).default([]) })
  .refine(range => range.from <= range.to, 'from must not be above to')

const gpus = z.union([
  z.enum(['auto', 'none', 'all']),
  z
    .array(
      z
        .string()
        .regex(/^([0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]$/i, 'expected a PCI address such as 0000:65:00.0')
    )
    .min(1),
  z.strictObject({
    devices: z
      .array(
        z
          .string()
          .regex(/^\/dev\/[A-Za-z0-9/_.-]+$/, 'expected a path below /dev')
          .refine(path => !path.includes('..'))
      )
      .min(1)
  })
])

const limits = z.strictObject({
  cpu: z.union([z.number().int().positive(), unlimited]).default('unlimited'),
  memory: z.union([unlimited, size]).default(32 * GIB),
  processes: z.union([z.number().int().positive(), unlimited]).default(4000),
  disk: z.union([unlimited, size]).default(200 * GIB)
})

const node = z
  .strictObject({
    address: hostName,
    listenAddress: ip.optional(),
    managePort: port,
    manageAddress: hostName.optional(),
    lxd: z.string().regex(/^(unix:\/\/\/.+|https:\/\/[^/]+)$/, 'expected unix:///… or https://host:port'),
    target: lxdName.optional(),
    project: lxdName.default('berth'),
    storagePool: lxdName.default('default'),
    network: z
      .string()
      .regex(/^[a-z][a-z0-9-]{1,14}$/, 'expected an interface name of at most 15 letters')
      .default('berthbr0'),
    deny: z.array(cidr).default([]),
    forwarding: z.enum(['auto', 'nat', 'proxy']).default('auto'),
    gpus: gpus.default('auto'),
    idmap: z.enum(['isolated', 'shared']).default('isolated'),
    nesting: z.boolean().default(false),
    mounts: z.array(z.strictObject({ source: absolutePath, path: absolutePath })).default([]),
    limits: limits.default(() => limits.parse({}))
  })
  .transform(parsed => ({
    ...parsed,
    listenAddress: parsed.listenAddress ?? parsed.address,
    manageAddress: parsed.manageAddress ?? parsed.address
  }))

const cronOrOff = z.string().transform((text, context) => {
  try {
    return text === 'off' ? text : parseCron(text)
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message })
    return z.NEVER
  }
})
/** One crontab line for everybody, or one for all and others for some. */
const schedule = z.preprocess(
  given => (typeof given === 'string' ? { all: given } : given),
  z.strictObject({ all: cronOrOff.default('off'), users: z.record(z.string(), cronOrOff).default({}) })
)
/** `127.0.0.1:8080` or `[::1]:8080` → address and port; undefined for anything else. */
export function parseListen(text: string): { host: string; port: number } | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? []
  const host = bracketed ?? plain
  if (host === undefined || isIP(host) === 0 || Number(digits) > 65535) return undefined
  return { host, port: Number(digits) }
}

const web = z.strictObject({
  listen: z
    .string()
    .refine(
      text => text === 'off' || parseListen(text) !== undefined,
      'expected an address and a port such as 127.0.0.1:8080, or off'
    )
    .default('127.0.0.1:8080'),
  publicUrl: z
    .url({ protocol: /^https?$/ })
    .refine(url => new URL(url).pathname === '/', 'expected an address without a path')
    .optional(),
  tls: z.strictObject({ cert: absolutePath, key: absolutePath }).optional(),
  trustProxy: z.array(z.union([ip, cidr])).default(['127.0.0.1', '::1']),
  admins: z.array(z.string()).default([])
})

const duration = span.refine(ms => ms > 0, 'expected a time such as 15m')
const attribute = z.string().regex(/^[A-Za-z][A-Za-z0-9-]*$/, 'expected the name of an LDAP attribute')
const withLogin = z.string().refine(text => text.includes('{{login}}'), 'expected {{login}} where the name goes')

const ldap = z.strictObject({
  url: z.string().regex(/^ldaps?:\/\/[^/@?#\s]+$/, 'expected ldaps://host or ldap://host'),
  startTls: z.boolean().default(false),
  ca: absolutePath.optional(),
  bindDn: z.string().min(1).optional(),
  bindPasswordFile: absolutePath.optional(),
  // A bare {{login}} could be made the name of a SASL mechanism.
  bindTemplate: withLogin.refine(text => /[=@\\]/.test(text), 'expected a DN or name@domain').optional(),
  base: z.string().min(1),
  userFilter: withLogin.regex(/^\(.+\)$/, 'expected a filter in brackets').default('(uid={{login}})'),
  requiredGroup: z.string().min(1).optional(),
  nameAttribute: attribute.default('uid'),
  displayNameAttribute: attribute.default('cn'),
  emailAttribute: attribute.default('mail'),
  adoptUsers: z.boolean().default(true),
  recheck: z.union([z.literal('off'), duration]).prefault('15m'),
  whenGone: z.enum(['disable', 'web']).default('disable'),
  timeout: duration.prefault('5s')
})

const schema = z.strictObject({
  stateDir: absolutePath.default('/var/lib/berth'),
  ports: portRange.prefault({ from: 22000, to: 22999 }),
  forwardPorts: portRange.prefault({ from: 11000, to: 11999 }),
  ssh: z.strictObject({ listen: ip.default('0.0.0.0'), userCa: absolutePath.optional() }).prefault({}),
  web: web.prefault({}),
  ldap: ldap.optional(),
  nodes: z.record(nodeName, node).refine(nodes => Object.keys(nodes).length > 0, 'expected at least one node'),
  templates: z.array(z.strictObject({ name: lxdName, image: lxdName, description: z.string().default('') })).min(1),
  snapshots: z
    .strictObject({
      dir: absolutePath.optional(),
      compression: z.enum(['zstd', 'gzip', 'none']).default('zstd'),
      keepPerUser: z.number().int().positive().default(5),
      maxBytesPerUser: z.union([unlimited, size]).default(500 * GIB),
      schedule: schedule.prefault({}),
      keepDaily: z.number().int().nonnegative().default(7),
      keepWeekly: z.number().int().nonnegative().default(4),
      patience: duration.prefault('15m')
    })
    .prefault({}),
  recovery: z.strictObject({ keepReplaced: span.prefault('24h') }).prefault({}),
  audit: z.strictObject({ keep: duration.prefault('400d') }).prefault({})
})

type Parsed = z.output<typeof schema>
export type LdapConfig = z.output<typeof ldap>
export type PortRange = z.output<typeof portRange>
export type Template = Parsed['templates'][number]
export type NodeConfig = z.output<typeof node> & { readonly name: string }
export type Config = Omit<Parsed, 'nodes'> & { readonly path: string; readonly nodes: ReadonlyMap<string, NodeConfig> }

/** `--config`, then `$BERTH_CONFIG`, then the default: the one place that reads berth's environment. */
export function findConfigPath(option: string | undefined, environment: NodeJS.ProcessEnv = process.env): string {
  return resolve(option ?? environment['BERTH_CONFIG'] ?? DEFAULT_CONFIG_PATH)
}

/** What processes that berth starts are given. */
export const ownEnvironment = (): Readonly<NodeJS.ProcessEnv> => process.env

/** Does systemd wait to be told that the service is ready (sd_notify(3))? */
export function isReadinessAwaited(environment: NodeJS.ProcessEnv = process.env): boolean {
  return Boolean(environment['NOTIFY_SOCKET'])
}

/**
 * Reads and checks berth.yaml; sizes become bytes and every default is filled in.
 * @throws UserError `no-config`; `bad-config` naming every fault by its path, all at once
 */
export function loadConfig(path: string): Config {
  if (!existsSync(path)) {
    const option = path === DEFAULT_CONFIG_PATH ? '' : ` --config ${path}`
    throw new UserError('no-config', `${path} does not exist.`, { hint: `Make it with: berth init${option}` })
  }
  return parseConfig(readFileSync(path, 'utf8'), path)
}

/** As loadConfig, of a text. @throws UserError `bad-config` */
export function parseConfig(text: string, path: string): Config {
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true })
  if (document.errors.length > 0)
    throw fault(
      path,
      document.errors.map(error => error.message)
    )
  const parsed = schema.safeParse(document.toJS())
  if (!parsed.success) throw fault(path, parsed.error.issues.map(describeIssue))
  const nodes = new Map(Object.entries(parsed.data.nodes).map(([name, value]) => [name, { ...value, name }]))
  const faults = crossFaults(parsed.data, nodes)
  if (faults.length > 0) throw fault(path, faults)
  return { ...parsed.data, path, nodes }
}

function fault(path: string, lines: string[]): UserError {
  return new UserError('bad-config', `${path}:\n${lines.map(line => `  ${line}`).join('\n')}`, {
    hint: 'Mend these lines; every key is explained in docs/configuration.md and in the file that `berth init` writes.'
  })
}

function describeIssue(issue: z.core.$ZodIssue): string {
  const where = issue.path.join('.') || 'the file'
  return issue.code === 'unrecognized_keys'
    ? `${where}: no such key: ${issue.keys.join(', ')}`
    : `${where}: ${issue.message}`
}

/** What no single key can know. */
function crossFaults(config: Parsed, nodes: ReadonlyMap<string, NodeConfig>): string[] {
  const faults: string[] = []
  const once = (what: string, names: string[]) => {
    const doubled = names.filter((name, index) => names.indexOf(name) !== index)
    for (const name of new Set(doubled)) faults.push(`${what} ${name} is used twice`)
  }
  once(
    'templates: the name',
    config.templates.map(template => template.name)
  )
  once(
    'nodes: managePort',
    [...nodes.values()].map(node => String(node.managePort))
  )
  const { ports, forwardPorts } = config
  if (ports.from <= forwardPorts.to && forwardPorts.from <= ports.to) faults.push('forwardPorts overlaps ports')
  if (config.ldap) faults.push(...ldapFaults(config.ldap))
  for (const node of nodes.values()) {
    const at = `nodes.${node.name}`
    for (const range of ['ports', 'forwardPorts'] as const) {
      if (node.managePort >= config[range].from && node.managePort <= config[range].to)
        faults.push(`${at}.managePort lies in ${range}`)
    }
    if (isIP(node.listenAddress) === 0)
      faults.push(`${at}.listenAddress: address is a name, so say here which IP address forwards listen on`)
    if (node.forwarding === 'nat' && /^(0\.0\.0\.0|::)$/.test(node.listenAddress))
      faults.push(`${at}.forwarding: nat needs a concrete listenAddress`)
    if (node.target !== undefined && sharesProject(node, nodes))
      faults.push(`${at}.project: a cluster member needs a project of its own`)
    once(
      `${at}.mounts: path`,
      node.mounts.map(mount => mount.path)
    )
    for (const mount of node.mounts) {
      if (config.snapshots.dir !== undefined && overlaps(config.snapshots.dir, mount.source)) {
        faults.push(
          `snapshots.dir: equal to, inside or above ${at}.mounts ${mount.source}: members could reach the archives`
        )
      }
    }
  }
  return faults
}

function ldapFaults({ url, startTls, bindDn, bindPasswordFile, bindTemplate, recheck }: LdapConfig): string[] {
  const faults: string[] = []
  const isLocal = /^ldap:\/\/(localhost|127\.[\d.]+|\[::1\])(:\d+)?$/.test(url)
  if (url.startsWith('ldap:') && !startTls && !isLocal)
    faults.push('ldap.url: passwords would cross the network in the clear: use ldaps://, or add startTls: true')
  if (url.startsWith('ldaps:') && startTls) faults.push('ldap.startTls: ldaps:// is TLS from the start')
  if ((bindDn === undefined) !== (bindPasswordFile === undefined))
    faults.push('ldap.bindDn: bindDn and bindPasswordFile belong together')
  if (bindDn === undefined && bindTemplate === undefined)
    faults.push('ldap: needs bindDn and bindPasswordFile (a service account), or bindTemplate')
  if (bindDn === undefined && recheck !== 'off')
    faults.push('ldap.recheck: only bindDn may look members up again; without it write recheck: off')
  return faults
}

function sharesProject(node: NodeConfig, nodes: ReadonlyMap<string, NodeConfig>): boolean {
  return [...nodes.values()].some(
    other => other.name !== node.name && other.project === node.project && other.target !== undefined
  )
}

function overlaps(one: string, other: string): boolean {
  const inside = (path: string, parent: string) => !relative(parent, path).startsWith('..')
  return inside(one, other) || inside(other, one)
}
