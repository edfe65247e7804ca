import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { connectToNode } from '../../app.ts'
import { countOf } from '../../command/units.ts'
import type { Config, NodeConfig } from '../../config.ts'
import { listRecipes } from '../../containers/image-recipe.ts'
import { readHostAddresses } from '../../containers/node-setup.ts'
import { chooseGpus, missingGpus } from '../../containers/profile.ts'
import { UserError } from '../../errors.ts'
import { apiPath } from '../../lxd/api-path.ts'
import type { LxdClient } from '../../lxd/client.ts'
import { findImage } from '../../lxd/images.ts'
import { knownHoles } from '../../lxd/known-holes.ts'
import { LxdError } from '../../lxd/lxd-error.ts'
import { networks } from '../../lxd/networks.ts'
import { projects } from '../../lxd/projects.ts'
import { getResources } from '../../lxd/resources.ts'
import { getServer, isSupported, listMembers, type ServerInfo } from '../../lxd/server.ts'
import { findPool, getPoolUsage, listPools } from '../../lxd/storage.ts'
import { fault, type Finding, guard, ok, warning } from './finding.ts'
import { checkNas } from './nas.ts'

/** Beyond this, tokens and codes expire at the wrong time and logs cannot be laid side by side. */
const CLOCK_SKEW_MS = 5000
const POOL_FULL = 0.9

interface Context {
  config: Config
  node: NodeConfig
  lxd: LxdClient
  server: ServerInfo
  /** The member of a cluster that is asked, which passes things on to the node. */
  asked: ServerInfo
}

/** One node: the way to LXD, and what LXD must have for berth. Changes nothing. */
export async function checkNode(config: Config, node: NodeConfig): Promise<Finding[]> {
  let lxd: LxdClient
  let asked: ServerInfo
  try {
    lxd = connectToNode(config, node).inProject('default')
    asked = await getServer(lxd, { query: {} })
  } catch (error) {
    return [connectionFault(node, error)]
  }
  try {
    if (!asked.trusted) return [fault('lxd', `${node.lxd} does not trust berth`, `berth node trust ${node.name}`)]
    const wrong = await checkTarget(config, node, lxd, asked)
    if (wrong) return [wrong]
    const server = await getServer(lxd).catch((error: unknown) => memberFault(node, error))
    if ('check' in server) return [server]
    const context = { config, node, lxd, server, asked }
    const found = await Promise.all([
      guard('lxd', () => checkVersion(context)),
      guard('target', () => checkWay(context)),
      guard('clock', () => checkClock(context)),
      guard('firewall', () => checkFirewall(context)),
      guard('project', () => checkProject(context)),
      guard('pool', () => checkPool(context)),
      guard('bridge', () => checkBridge(context)),
      guard('image', () => checkImages(context)),
      guard('gpus', () => checkGpus(context)),
      guard('address', () => checkAddress(context)),
      isHere(context) && node.mounts.length > 0 ? checkNas(config, node) : []
    ])
    return found.flat()
  } finally {
    await lxd.close()
  }
}

const isLocal = (node: NodeConfig): boolean => node.lxd.startsWith('unix:')

/** A unix socket leads to the LXD of this machine, which may be another member than the node. */
const isHere = ({ node, asked }: Context): boolean =>
  isLocal(node) && (node.target === undefined || node.target === asked.name)

/** Does `target` say what it must: which member of a cluster, and nothing elsewhere? */
async function checkTarget(
  { path }: Config,
  node: NodeConfig,
  lxd: LxdClient,
  { clustered, name }: ServerInfo
): Promise<Finding | undefined> {
  const edit = `In ${path}, nodes.${node.name}:`
  if (!clustered && node.target === undefined) return undefined
  if (!clustered) return fault('target', `LXD at ${node.lxd} is in no cluster`, `${edit} leave out target`)
  const members = await listMembers(lxd)
  if (node.target !== undefined && members.includes(node.target)) return undefined
  const text =
    node.target === undefined
      ? `${name} at ${node.lxd} is in a cluster, and would put containers on any member`
      : `the cluster has no member ${node.target}`
  return fault('target', text, `${edit} target: ${members.join(' or ')}, and a project of its own`)
}

function memberFault({ target }: NodeConfig, error: unknown): Finding {
  if (!(error instanceof LxdError)) throw error
  return fault(
    'lxd',
    `the member ${target} does not answer: ${error.message}`,
    `systemctl restart lxd   # on ${target}`
  )
}

/** Through another member everything works, but berth cannot see all of the node. */
function checkWay({ config, node, asked }: Context): Finding[] {
  if (node.target === undefined) return []
  if (node.target === asked.name) return [ok('target', `${node.target} itself answers`)]
  const mend = `In ${config.path}, nodes.${node.name}: lxd: https://${node.address}:8443; then: berth node trust ${node.name}`
  const text = `${asked.name} answers for ${node.target}: addresses that only ${node.target} has may be open to containers, and nothing works while ${asked.name} is down`
  return [warning('target', text, mend)]
}

/** The command line tool of the server, aimed at it. */
function tool({ node, server }: Context): string {
  const name = server.kind === 'incus' ? 'incus' : 'lxc'
  const usual = /^unix:\/\/(\/var\/lib\/(lxd|incus)\/unix\.socket|\/var\/snap\/lxd\/common\/lxd\/unix\.socket)$/
  if (!isLocal(node) || usual.test(node.lxd)) return name
  return `${server.kind === 'incus' ? 'INCUS' : 'LXD'}_SOCKET=${node.lxd.slice('unix://'.length)} ${name}`
}

const where = (node: NodeConfig): string => (isLocal(node) && !node.target ? '' : `   # on ${node.name}`)

function connectionFault(node: NodeConfig, error: unknown): Finding {
  if (error instanceof UserError) return fault('lxd', error.message, `berth node trust ${node.name}`)
  if (!(error instanceof LxdError)) throw error
  if (isLocal(node)) {
    const unit = node.lxd.includes('incus') ? 'incus' : node.lxd.includes('/snap/') ? 'snap.lxd.daemon' : 'lxd'
    return fault(
      'lxd',
      error.message,
      `systemctl restart ${unit}   # is it installed? apt-get install ${unit === 'incus' ? 'incus' : 'lxd'}`
    )
  }
  if (error.message.includes('another certificate')) {
    return fault(
      'lxd',
      `${error.message}: it was installed anew, or it is not ${node.name}`,
      `berth node trust ${node.name}`
    )
  }
  return fault(
    'lxd',
    error.message,
    `lxc config get core.https_address; lxc config set core.https_address :8443${where(node)}`
  )
}

function checkVersion({ node, server }: Context): Finding[] {
  const name = `${server.kind === 'incus' ? 'Incus' : 'LXD'} ${server.version}`
  const isSnap = node.lxd.includes('/snap/')
  const upgrade = isSnap ? 'snap refresh lxd' : `apt-get update && apt-get install --only-upgrade ${server.kind}`
  if (!isSupported(server)) return [fault('lxd', `${name} is older than LXD 5.0 and Incus 6.0`, upgrade + where(node))]
  const answer = ok('lxd', `${name} at ${node.lxd}`)
  const holes = knownHoles(server)
  const last = holes.at(-1)
  if (last === undefined) return [answer]
  const count = countOf(holes.length, 'known hole')
  const text = `by its version ${name} has ${count} in importing, mended by ${last.fixedIn}: see docs/operations.md`
  const list = isSnap ? '' : ` && zgrep CVE- /usr/share/doc/${server.kind}/changelog.Debian.gz`
  return [answer, warning('lxd', text, upgrade + list + where(node))]
}

async function checkClock({ node, lxd }: Context): Promise<Finding[]> {
  const before = Date.now()
  const { headers } = await lxd.raw('GET', apiPath`/1.0`)
  const theirs = Date.parse(String(headers['date']))
  if (Number.isNaN(theirs)) return [warning('clock', 'LXD does not tell the time', `date -u${where(node)}`)]
  // The header has whole seconds (RFC 9110, 5.6.7): half of one on either side is no skew.
  const skewMs = Math.abs(theirs + 500 - (before + Date.now()) / 2)
  if (skewMs <= CLOCK_SKEW_MS) return [ok('clock', 'the same as here')]
  return [fault('clock', `${Math.round(skewMs / 1000)} s apart from here`, `timedatectl set-ntp true${where(node)}`)]
}

function checkFirewall({ node, server }: Context): Finding[] {
  if (server.firewall !== 'xtables') return [ok('firewall', server.firewall)]
  const text = 'xtables: LXD may leave its forwards behind when a container stops'
  const mend = `apt-get purge iptables && systemctl restart ${server.kind}${where(node)}   # LXD then takes nftables`
  if (node.forwarding === 'nat') return [fault('firewall', `${text}, and forwarding is nat`, mend)]
  return [warning('firewall', `${text}; so forwarding auto is proxy, which is slower`, mend)]
}

async function checkProject({ node, lxd }: Context): Promise<Finding[]> {
  const project = await projects.find(lxd, node.project)
  if (project === undefined) return [ok('project', `${node.project} is made with the first container`)]
  if (project.config['features.profiles'] === 'true') return [ok('project', node.project)]
  return [
    fault(
      'project',
      `${node.project} shares its profiles with others`,
      `Name another project in berth.yaml, nodes.${node.name}; berth makes it`
    )
  ]
}

async function checkPool(context: Context): Promise<Finding[]> {
  const { node, lxd } = context
  const pool = await findPool(lxd, node.storagePool)
  if (pool === undefined) {
    const names = (await listPools(lxd)).map(({ name }) => name)
    const there = names.length === 0 ? 'there is none' : `there is ${names.join(', ')}`
    return [
      fault(
        'pool',
        `no storage pool ${node.storagePool}: ${there}`,
        `${tool(context)} storage create ${node.storagePool} btrfs${where(node)}`
      )
    ]
  }
  const { usedBytes, totalBytes } = await getPoolUsage(lxd, node.storagePool)
  const used = totalBytes === 0 ? 0 : usedBytes / totalBytes
  const text = `${node.storagePool}, ${pool.driver}, ${Math.round(used * 100)} % used`
  if (used > POOL_FULL)
    return [
      fault(
        'pool',
        text,
        `${tool(context)} storage info ${node.storagePool}${where(node)}   # then enlarge it, or delete images and containers`
      )
    ]
  if (pool.driver !== 'dir') return [ok('pool', text)]
  return [
    warning(
      'pool',
      `${text}: dir copies every file for each container and may not keep limits.disk`,
      `${tool(context)} storage create fast btrfs${where(node)}   # then storagePool: fast`
    )
  ]
}

async function checkBridge(context: Context): Promise<Finding[]> {
  const { node, lxd } = context
  const network = await networks.find(lxd, node.network)
  if (network === undefined) return [ok('bridge', `${node.network} is made with the first container`)]
  const rename = `In berth.yaml, nodes.${node.name}: network: another name; berth makes the bridge`
  if (!network.managed || network.type !== 'bridge')
    return [fault('bridge', `${node.network} is no bridge of LXD's`, rename)]
  const address = network.config['ipv4.address'] ?? 'none'
  if (!address.includes('/')) {
    return [
      fault(
        'bridge',
        `${node.network} has no IPv4 network`,
        `${tool(context)} network set ${node.network} ipv4.address auto${where(node)}`
      )
    ]
  }
  if (network.config['dns.mode'] !== 'none')
    return [warning('bridge', `${node.network} was not made by berth, which will change its settings`, rename)]
  return [ok('bridge', `${node.network}, ${address}`)]
}

async function checkImages(context: Context): Promise<Finding[]> {
  const { config, node, lxd } = context
  const recipes = await listRecipes()
  const found = await Promise.all(
    config.templates.map(async ({ name, image }) => {
      if ((await findImage(lxd, image)) !== undefined) return ok('image', `${image} for the template ${name}`)
      const build = [name, image].find(word => recipes.includes(word))
      const mend =
        build === undefined
          ? `${tool(context)} image copy REMOTE:IMAGE local: --alias ${image}${where(node)}`
          : `berth template build ${name}`
      return fault('image', `no image ${image} for the template ${name}`, mend)
    })
  )
  return found
}

async function checkGpus({ node, lxd }: Context): Promise<Finding[]> {
  const { gpus: cards } = await getResources(lxd)
  const missing = missingGpus(node, cards)
  if (missing.length > 0)
    return [
      fault(
        'gpus',
        `not in the node: ${missing.join(', ')}`,
        `lspci -nn -d ::0300; lspci -nn -d ::0302${where(node)}   # then gpus in berth.yaml`
      )
    ]
  const chosen = chooseGpus(node, cards)
  const driverless = chosen.filter(card => card.driver === '' || card.driver === 'nouveau')
  if (driverless.length > 0) {
    const names = driverless.map(card => `${card.product || card.vendor} ${card.pciAddress}`)
    return [
      fault(
        'gpus',
        `no driver holds ${names.join(', ')}`,
        `apt-get install nvidia-driver && reboot${where(node)}   # nvidia-smi shows the cards then`
      )
    ]
  }
  if (typeof node.gpus === 'object' && !Array.isArray(node.gpus)) return [ok('gpus', node.gpus.devices.join(', '))]
  return [ok('gpus', chosen.map(card => `${card.product} (${card.driver} ${card.driverVersion})`).join(', ') || 'none')]
}

/** Can a member's ssh get from `address` to the port LXD listens on? */
async function checkAddress({ config, node, lxd }: Context): Promise<Finding[]> {
  const own = await readHostAddresses(lxd)
  const edit = `ip -brief address${where(node)}; then in ${config.path}, nodes.${node.name}:`
  const any = /^(0\.0\.0\.0|::)$/.test(node.listenAddress)
  if (!any && !own.includes(node.listenAddress)) {
    return [
      fault(
        'address',
        `${node.listenAddress} is no address of ${node.name}: no forward can listen there`,
        `${edit} listenAddress`
      )
    ]
  }
  const resolved =
    isIP(node.address) === 0
      ? (await lookup(node.address, { all: true }).catch(() => [])).map(({ address }) => address)
      : [node.address]
  if (resolved.length === 0)
    return [fault('address', `nobody knows the name ${node.address}`, `${edit} address: an IP address`)]
  if (resolved.some(address => address === '::1' || address.startsWith('127.'))) {
    return [fault('address', `${node.address} leads every member to their own machine`, `${edit} address`)]
  }
  if (!any && !resolved.includes(node.listenAddress)) {
    return [
      warning(
        'address',
        `members go to ${node.address}, forwards listen on ${node.listenAddress}: something between them must carry the fixed ports on`,
        `${edit} address or listenAddress`
      )
    ]
  }
  return [ok('address', `members go to ${node.address}`)]
}
