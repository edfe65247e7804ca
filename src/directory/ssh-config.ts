import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NodeConfig } from '../config.ts'
import type { User } from './users.ts'

const TEMPLATE = join(import.meta.dirname, '../../templates/ssh_config')

/** The member's `~/.ssh/config` entries, `NODE-manage` and `NODE` for each node (ssh_config(5)). */
export function renderSshConfig(user: User, nodes: Iterable<NodeConfig>): string {
  const template = readFileSync(TEMPLATE, 'utf8')
  return [...nodes]
    .map(node => {
      const values: Record<string, string> = {
        user: user.name,
        node: node.name,
        manageAddress: node.manageAddress,
        managePort: String(node.managePort),
        address: node.address,
        fixedPort: String(user.fixedPort)
      }
      return template.replaceAll(/\{\{(\w+)\}\}/g, (_, name: string) => values[name] as string)
    })
    .join('\n')
}

/** One known_hosts line; ports other than 22 are written with brackets (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). */
export const knownHostsLine = (host: string, port: number, publicKey: string): string =>
  `${port === 22 ? host : `[${host}]:${port}`} ${publicKey}`
