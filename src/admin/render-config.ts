import { readFileSync } from 'node:fs'
import { isIPv4 } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import { chooseGpus } from '../containers/profile.ts'
import { contains, formatIpv4, parseIpv4, parseNetwork } from '../containers/ipv4.ts'
import type { Survey } from './survey.ts'
import { BERTH_ROOT } from './version.ts'

const GIB = 2 ** 30
const DEFAULT_MEMORY_GIB = 32
const DEFAULT_DISK_GIB = 200

export const UNIT_PATH = '/etc/systemd/system/berth.service'

export interface Choices {
  readonly stateDir: string
  readonly unitPath: string
  readonly address: string
  readonly recipes: readonly string[]
}

/** berth.yaml for a surveyed machine, with comments. */
export function renderConfig(survey: Survey, { stateDir, unitPath, address, recipes }: Choices): string {
  const { server, resources } = survey
  const pool = choosePool(survey)
  const cards = chooseGpus({ gpus: 'auto' }, resources.gpus).map(
    card => `${card.product || card.vendor} ${card.pciAddress}`
  )
  const others = survey.addresses.filter(candidate => candidate !== address)
  const templates = imageNames(survey)
  return render('berth.yaml', {
    stateDir,
    unit: unitPath,
    node: nodeName(),
    address,
    addressNote: `What members' SSH configuration uses.${others.length === 0 ? '' : ` Here are also ${others.join(', ')}.`}`,
    manageAddress: manageAddress(address),
    serverNote: `${server.kind === 'incus' ? 'Incus' : 'LXD'} ${server.version}; elsewhere: https://NODE:8443, then \`berth node trust\`.`,
    lxd: `unix://${survey.socket}`,
    target: server.clustered ? `target: ${server.name}` : '# target: gpu1',
    project: server.clustered ? `berth-${server.name}` : 'berth',
    pool: pool?.name ?? 'default',
    poolNote: `Pools here: ${survey.pools.map(({ name, driver }) => `${name} (${driver})`).join(', ') || 'none yet'}.`,
    tool: server.kind === 'incus' ? 'incus' : 'lxc',
    network: freeBridgeName(survey),
    subnet: freeSubnet(survey),
    deny: JSON.stringify(surroundingNetworks(address)),
    gpuNote: cards.length === 0 ? 'No GPU was found here.' : `Here: ${cards.join(', ')}.`,
    hardwareNote: `Here: ${resources.cpus} CPUs, ${Math.round(resources.memoryBytes / GIB)} GiB.`,
    memory: halfAtMost(resources.memoryBytes, DEFAULT_MEMORY_GIB),
    disk: halfAtMost(pool?.totalBytes ?? 0, DEFAULT_DISK_GIB),
    templateNote: templates.length > 0 ? 'These are here.' : 'Build it with `berth template build`.',
    templates: (templates.length > 0 ? templates : recipes.slice(0, 1))
      .map(name => `  - { name: ${name}, image: ${name}, description: '' }`)
      .join('\n')
  })
}

/** A unit that runs this checkout and may write where berth.yaml says. */
export function renderUnit(config: Config): string {
  const writable = [config.stateDir, ...(config.snapshots.dir === undefined ? [] : [`-${config.snapshots.dir}`])]
  return render('berth.service', {
    root: unitWord(BERTH_ROOT),
    configPath: unitWord(config.path),
    writable: writable.map(unitWord).join(' ')
  })
}

function render(template: string, values: Readonly<Record<string, string>>): string {
  return readFileSync(join(BERTH_ROOT, 'templates', template), 'utf8').replaceAll(
    /\{\{(\w+)\}\}/g,
    (_, name: string) => {
      const value = values[name]
      if (value === undefined) throw new Error(`templates/${template} asks for ${name}`)
      return value
    }
  )
}

/** systemd.syntax(7): `%` begins a specifier, a space ends a word. */
const unitWord = (path: string): string => {
  const escaped = path.replaceAll('%', '%%')
  return /\s/.test(escaped) ? `"${escaped}"` : escaped
}

/** LXD may live in a network namespace of its own, with an address that is not this machine's. */
function manageAddress(address: string): string {
  const own = Object.values(networkInterfaces()).flatMap(list => list ?? [])
  if (own.some(candidate => candidate.address === address)) return '# manageAddress: 10.0.0.5'
  const near = own.find(
    ({ family, cidr }) =>
      family === 'IPv4' && cidr !== null && isIPv4(address) && contains(parseNetwork(cidr), parseIpv4(address))
  )
  return near === undefined ? '# manageAddress: 10.0.0.5' : `manageAddress: ${near.address}`
}

function nodeName(): string {
  const label = hostname().toLowerCase().split('.')[0] ?? ''
  return /^[a-z][a-z0-9-]{0,30}$/.test(label) ? label : 'gpu1'
}

const choosePool = ({ pools }: Survey) => pools.find(({ driver }) => driver !== 'dir') ?? pools[0]

/** Aliases of the container images that are there and that berth.yaml can name. */
const imageNames = ({ images }: Survey): string[] =>
  images
    .filter(({ type }) => type !== 'virtual-machine')
    .flatMap(({ aliases }) => aliases.map(({ name }) => name))
    .filter(name => /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(name))

/** A bridge of the name that berth made before is taken again; anybody else's is left alone. */
function freeBridgeName({ networks }: Survey): string {
  for (let index = 0; ; index++) {
    const name = `berthbr${index}`
    const network = networks.find(candidate => candidate.name === name)
    if (network === undefined || network.config['dns.mode'] === 'none') return name
  }
}

/** The first of 10.64.0.0/20, 10.64.16.0/20, … that holds no address of this machine or of LXD's networks. */
function freeSubnet({ networks, addresses }: Survey): string {
  const own = Object.values(networkInterfaces()).flatMap(list => list ?? [])
  const cidrs = [...networks.map(({ config }) => config['ipv4.address']), ...own.map(({ cidr }) => cidr), ...addresses]
  const taken = cidrs
    .filter(cidr => cidr !== undefined && cidr !== null && /^\d/.test(cidr))
    .map(cidr => parseNetwork(cidr as string))
  for (let first = parseIpv4('10.64.0.0'); ; first += 2 ** 12) {
    const last = first + 2 ** 12 - 1
    if (taken.every(range => range.last < first || range.first > last)) return `${formatIpv4(first + 1)}/20`
  }
}

/** The network the node's address lies in: the lab's machines, which should not be open to members by the node's address. */
function surroundingNetworks(address: string): string[] {
  return Object.values(networkInterfaces())
    .flatMap(list => list ?? [])
    .filter(({ family, internal, cidr }) => family === 'IPv4' && !internal && cidr !== null)
    .map(({ cidr }) => parseNetwork(cidr as string))
    .filter(range => range.first < range.last && isIPv4(address) && contains(range, parseIpv4(address)))
    .map(({ first, last }) => `${formatIpv4(first)}/${32 - Math.log2(last - first + 1)}`)
}

const halfAtMost = (bytes: number, atMostGib: number): string =>
  `${bytes === 0 ? atMostGib : Math.max(1, Math.min(atMostGib, Math.floor(bytes / 2 / GIB)))}GiB`
