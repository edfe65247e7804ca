import { BlockList, isIP, type Server, type Socket } from 'node:net'
import { plainAddress, siteOf } from '../command/address.ts'

const MAX_CONNECTIONS = 1024
/** Behind one address may sit a lab with some forty browsers open; the others have the rest. */
const MAX_PER_SITE = 256

/** Hangs up on whoever holds too many connections already, before anything is read. Proxies in front hold everybody's. */
export function limitConnections(server: Server, trustProxy: readonly string[]): void {
  const proxies = new BlockList()
  for (const network of trustProxy) {
    const [address = '', bits] = network.split('/')
    proxies.addSubnet(address, bits === undefined ? widthOf(address) : Number(bits), familyOf(address))
  }
  const open = new Map<string, number>()
  server.maxConnections = MAX_CONNECTIONS
  server.on('connection', (socket: Socket) => {
    const address = plainAddress(socket.remoteAddress)
    if (isIP(address) === 0 || proxies.check(address, familyOf(address))) return
    const site = siteOf(address)
    const count = (open.get(site) ?? 0) + 1
    if (count > MAX_PER_SITE) {
      socket.destroy()
      return
    }
    open.set(site, count)
    socket.once('close', () => {
      const left = (open.get(site) ?? 1) - 1
      if (left === 0) open.delete(site)
      else open.set(site, left)
    })
  })
}

const familyOf = (address: string): 'ipv4' | 'ipv6' => (address.includes(':') ? 'ipv6' : 'ipv4')
const widthOf = (address: string): number => (address.includes(':') ? 128 : 32)
