import { existsSync, readFileSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import type { Config, NodeConfig, PortRange } from '../../config.ts'
import { lockState } from '../state-lock.ts'
import { fault, type Finding, guard, ok, warning } from './finding.ts'
import { checkNas } from './nas.ts'

/** LXD's own advice for many containers (its page "Production setup"): the kernel's 128 end at about a dozen. */
const INOTIFY_INSTANCES = 512
const MANY_CONTAINERS = 100

/** The machine berth runs on, which is often a node too: ports, kernel settings, the snapshot directory. */
export async function checkMachine(config: Config): Promise<Finding[]> {
  const nodes = [...config.nodes.values()]
  const found = await Promise.all([
    ...nodes.map(node => guard('manage-port', () => checkManagePort(config, node))),
    guard('ephemeral-ports', () => checkEphemeralPorts(config)),
    guard('inotify', checkInotify),
    guard('idmap', () => checkIdmap(nodes)),
    checkNas(config)
  ])
  return found.flat()
}

async function checkManagePort(config: Config, node: NodeConfig): Promise<Finding[]> {
  const { listen } = config.ssh
  const at = `${listen} port ${node.managePort} for ${node.name}`
  const who = `ss -ltnp 'sport = :${node.managePort}'`
  const banner = await readBanner(/^(0\.0\.0\.0|::)$/.test(listen) ? '127.0.0.1' : listen, node.managePort)
  if (banner?.includes('berth')) return [ok('manage-port', at)]
  if (banner !== undefined) {
    return [
      fault(
        'manage-port',
        `something else listens on ${at}: ${banner || 'it says nothing'}`,
        `${who}; then end it, or change managePort`
      )
    ]
  }
  if (existsSync(config.stateDir)) {
    const lock = lockState(config.stateDir)
    if (lock === undefined)
      return [fault('manage-port', `serve runs, but nothing answers on ${at}`, 'systemctl restart berth')]
    lock.release()
  }
  const refusal = await tryListen(listen, node.managePort)
  if (refusal === undefined) return [ok('manage-port', `${at} is free`)]
  return [
    fault(
      'manage-port',
      `berth cannot listen on ${at}: ${refusal}`,
      `ip address; then set ssh.listen in ${config.path}`
    )
  ]
}

/** The first line somebody says on a port; empty when nothing is said in a second, undefined when nobody listens. */
function readBanner(host: string, port: number): Promise<string | undefined> {
  return new Promise(resolve => {
    const socket = createConnection({ host, port, timeout: 1000 })
    let connected = false
    socket.on('connect', () => (connected = true))
    socket.on('data', data => {
      resolve(
        data
          .toString('latin1')
          .split(/\r?\n/)[0]
          ?.replaceAll(/[^\x20-\x7e]/g, '?')
          .slice(0, 80)
      )
      socket.destroy()
    })
    socket.on('timeout', () => socket.destroy())
    socket.on('error', () => undefined)
    socket.on('close', () => resolve(connected ? '' : undefined))
  })
}

function tryListen(host: string, port: number): Promise<string | undefined> {
  return new Promise(resolve => {
    const server = createServer()
    server.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(undefined)))
  })
}

function checkEphemeralPorts(config: Config): Finding[] {
  const [low = 0, high = 0] = readNumbers('/proc/sys/net/ipv4/ip_local_port_range')
  const reserved = readFileSync('/proc/sys/net/ipv4/ip_local_reserved_ports', 'utf8').trim()
  const ranges: [string, PortRange][] = [
    ['ports', config.ports],
    ['forwardPorts', config.forwardPorts]
  ]
  return ranges.map(([name, { from, to }]) => {
    const text = `${name} ${from} to ${to}, the kernel's ephemeral ports ${low} to ${high}`
    if (to < low || from > high || isReserved(reserved, from, to)) return ok('ephemeral-ports', text)
    const list = [reserved, `${from}-${to}`].filter(Boolean).join(',')
    return fault(
      'ephemeral-ports',
      `${text}: any outgoing connection may take a member's port`,
      `echo net.ipv4.ip_local_reserved_ports=${list} > /etc/sysctl.d/60-berth.conf && sysctl -p /etc/sysctl.d/60-berth.conf   # on every node`
    )
  })
}

function isReserved(list: string, from: number, to: number): boolean {
  return list
    .split(',')
    .map(part => part.split('-').map(Number))
    .some(([first = 0, last = first]) => first <= from && to <= last)
}

const readNumbers = (path: string): number[] => readFileSync(path, 'utf8').trim().split(/\s+/).map(Number)

function checkInotify(): Finding[] {
  const [instances = 0] = readNumbers('/proc/sys/fs/inotify/max_user_instances')
  if (instances >= INOTIFY_INSTANCES) return [ok('inotify', `${instances} instances`)]
  return [
    warning(
      'inotify',
      `${instances} inotify instances: systemd in the containers uses them up with about ${Math.round(instances / 10)} containers`,
      'echo fs.inotify.max_user_instances=1024 > /etc/sysctl.d/61-berth.conf && sysctl -p /etc/sysctl.d/61-berth.conf   # on every node'
    )
  ]
}

const IDS_PER_CONTAINER = 65_536

/** With entries for root in subuid(5), LXD gives containers no ids but these: each isolated one needs a range of its own. */
function checkIdmap(nodes: readonly NodeConfig[]): Finding[] {
  if (!nodes.some(node => node.lxd.startsWith('unix:') && node.idmap === 'isolated')) return []
  return ['/etc/subuid', '/etc/subgid'].map(path => {
    const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n') : []
    const counts = lines.filter(line => line.startsWith('root:')).map(line => Number(line.split(':')[2]))
    if (counts.length === 0) return ok('idmap', `${path} leaves the choice to LXD`)
    const room = Math.max(...counts.map(count => Math.floor(count / IDS_PER_CONTAINER)))
    const text = `${path} has room for ${room} isolated containers`
    if (room >= MANY_CONTAINERS) return ok('idmap', text)
    const mend = `sed -i '/^root:/d' ${path} && echo root:1000000:1000000000 >> ${path}; then restart LXD`
    return fault('idmap', text, mend)
  })
}
