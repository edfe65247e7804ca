import { lookup } from 'node:dns/promises'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { BlockList, isIP } from 'node:net'
import type { NodeConfig } from '../../config.ts'
import { fault, type Finding, ok } from './finding.ts'

/** File systems whose server believes the node's address, and what their sources look like. */
const NETWORK_FILE_SYSTEMS = /^(nfs4?|cifs|smb3|ceph|glusterfs|9p|beegfs|lustre|fuse\.(glusterfs|sshfs|ceph-fuse))$/

interface Mounted {
  target: string
  type: string
  source: string
}

/**
 * A node's mounts on this machine: are they there, and is the file server of each closed to containers? What leaves a container
 * carries the node's address, so a server that trusts that address would give a member's own NFS client everybody's files.
 */
export async function checkMounts(
  configPath: string,
  node: NodeConfig,
  mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')
): Promise<Finding[]> {
  const mounted = parseMounts(mountinfo)
  const found = await Promise.all(node.mounts.map(({ source }) => checkMount(configPath, node, source, mounted)))
  return found.flat()
}

async function checkMount(
  configPath: string,
  node: NodeConfig,
  source: string,
  mounted: Mounted[]
): Promise<Finding[]> {
  if (!existsSync(source)) {
    return [fault('mounts', `${source} is not there: no container would start`, `mkdir -p ${source}   # or mount it`)]
  }
  const real = realpathSync(source)
  const inside = mounted
    .filter(({ target }) => isBelow(real, target))
    .toSorted((one, other) => other.target.length - one.target.length)
  // What is mounted below the source reaches containers too, where the bind is recursive.
  const concerned = [...inside.slice(0, 1), ...mounted.filter(({ target }) => target !== real && isBelow(target, real))]
  const servers = new Set(concerned.filter(({ type }) => NETWORK_FILE_SYSTEMS.test(type)).flatMap(serverNames))
  const open = (await Promise.all([...servers].map(addressesOf))).flat().filter(address => !isDenied(node, address))
  if (open.length === 0)
    return [
      ok('mounts', servers.size === 0 ? source : `${source} from ${[...servers].join(', ')}, closed to containers`)
    ]
  return open.map(address =>
    fault(
      'mounts',
      `the file server ${address} of ${source} can be reached from containers, with the node's address`,
      `In ${configPath}, nodes.${node.name}: deny: [${[...node.deny, `${address}/${isIP(address) === 4 ? 32 : 128}`].join(', ')}]; then: systemctl restart berth`
    )
  )
}

const isBelow = (path: string, parent: string): boolean =>
  path === parent || path.startsWith(parent === '/' ? '/' : `${parent}/`)

/** proc_pid_mountinfo(5) */
function parseMounts(mountinfo: string): Mounted[] {
  return mountinfo
    .split('\n')
    .filter(line => line !== '')
    .map(line => {
      const [before = '', after = ''] = line.split(' - ')
      const [type = '', source = ''] = after.split(' ')
      return { target: unescape(before.split(' ')[4] ?? ''), type, source: unescape(source) }
    })
}

const unescape = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))

/** `nas:/export`, `[fd00::1]:/export`, `//nas/share`, `10.0.0.1,10.0.0.2:/` → the servers' names. */
function serverNames({ source }: Mounted): string[] {
  const host = /^\/\/([^/]+)/.exec(source)?.[1] ?? /^(.+?):\//.exec(source)?.[1]
  return (
    host?.split(',').map(name =>
      name
        .replace(/^.*@/, '')
        .replace(/^\[(.*)\].*$/, '$1')
        .replace(/^([^:]+):\d+$/, '$1')
    ) ?? []
  )
}

async function addressesOf(name: string): Promise<string[]> {
  const found = await lookup(name, { all: true, family: 4 }).catch(() => [])
  return found.map(({ address }) => address)
}

function isDenied(node: NodeConfig, address: string): boolean {
  const list = new BlockList()
  for (const network of node.deny) {
    const [base = '', bits] = network.split('/')
    list.addSubnet(base, Number(bits), isIP(base) === 4 ? 'ipv4' : 'ipv6')
  }
  return list.check(address)
}
