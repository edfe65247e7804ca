import { defineCommand, type Command } from '../src/command/command.ts'
import { manageLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { drawTable } from '../src/command/table.ts'
import type { NodeConfig } from '../src/config.ts'
import type { Containers } from '../src/containers/containers.ts'
import { UserError } from '../src/errors.ts'

type Wish = { action: 'list' } | { action: 'open' | 'close'; port: number }

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'port [action] [number]',
    describe: 'extra ports: `port 8888` opens one, `port close 8888` closes it',
    epilogue: [
      'The port of the node that leads to yours is chosen from a pool and stays yours until you close it, whatever becomes of the',
      'container. Anyone who reaches the node reaches it: protect what listens there. For yourself alone a tunnel is better:',
      'ssh -L 8888:localhost:8888 NODE'
    ].join('\n'),
    allowedFor: ['member'],
    builder: yargs =>
      yargs
        .positional('action', { type: 'string', describe: '`list`, `close`, or the number of a TCP port to open' })
        .positional('number', { type: 'string', describe: 'of the port to close' })
        .option('json', { type: 'boolean', default: false, describe: 'as one JSON document' }),
    async handler({ action, number, json }, { principal, node, reply }) {
      const user = requireUser(principal)
      const wish = readWish(action, number, node)
      if (wish.action === 'list') {
        const list = containers.ports(user, node)
        if (json) return reply.json(list.map(forward => ({ ...forward, address: node.address })))
        if (list.length === 0)
          return reply.out(`No extra port is open. Open one with:  ${manageLine(node, 'port 8888')}`)
        const rows = list.map(forward => [forward.containerPort, at(node, forward.nodePort)])
        return reply.out(drawTable(['YOUR PORT', 'REACHED AT'], rows))
      }
      if (wish.action === 'close') {
        const closed = await containers.closePort(user, node, wish.port)
        if (json) return reply.json({ closed })
        return reply.out(`Closed: ${at(node, closed.nodePort)} no longer leads to port ${wish.port} of your container.`)
      }
      const { already, ...forward } = await containers.openPort(user, node, wish.port)
      if (json) return reply.json({ ...forward, address: node.address })
      reply.out(
        `${already ? 'Open already' : 'Open'}: ${at(node, forward.nodePort)} leads to port ${wish.port} of your container.`
      )
      reply.out('What listens there must do so on all addresses (0.0.0.0), not on localhost alone.')
      reply.out(`Close it again:  ${manageLine(node, `port close ${wish.port}`)}`)
    }
  })

const at = ({ address }: NodeConfig, port: number): string =>
  address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`

/** `port`, `port list`, `port 8888`, `port open 8888`, `port close 8888`. */
function readWish(action: string | undefined, number: string | undefined, node: NodeConfig): Wish {
  if (number === undefined && (action === undefined || action === 'list')) return { action: 'list' }
  const isBare = number === undefined && action !== 'open' && action !== 'close'
  const word = isBare ? 'open' : action
  const port = toPort(isBare ? action : number)
  if ((word === 'open' || word === 'close') && port !== undefined) return { action: word, port }
  throw new UserError('usage', 'A port is a number from 1 to 65535.', { hint: `See: ${manageLine(node, 'help port')}` })
}

function toPort(text = ''): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0
  return port >= 1 && port <= 65535 ? port : undefined
}
