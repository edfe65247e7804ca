import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NodeConfig } from '../config.ts'
import type { User } from './users.ts'

const TEMPLATE = join(import.meta.dirname, '../../templates/ssh_config')

export interface SshConfigOptions {
  /** For the OpenSSH of Windows, which cannot share connections. */
  readonly windows?: boolean
  /** Whether `ssh NODE` starts a stopped container first; not on Windows unless told. */
  readonly wake?: boolean
  /** What the client calls itself (RFC 4253 section 4.2), as `OpenSSH_9.2p1`. */
  readonly software?: string
}

/** For an option that this client has, and others that read the same file may not. It must stand outside of any entry. */
const IGNORE_UNKNOWN = 'Match all\n    IgnoreUnknown WarnWeakCrypto\n\n'

/**
 * The member's `~/.ssh/config` entries, `NODE-manage` and `NODE` for each node (ssh_config(5)): a whole file for `Include`, or lines
 * to append to one, wherever it ends and however often. The `Match` comes before the entry that sets HostName, and so is asked but
 * once where the lines are there twice.
 */
export function renderSshConfig(
  user: User,
  nodes: Iterable<NodeConfig>,
  { windows = false, wake = !windows, software = '' }: SshConfigOptions = {}
): string {
  // Only for who needs it: a client without it, and with an IgnoreUnknown of the member's own before ours, would refuse the file.
  const features: Record<string, boolean> = { wake, sharing: !windows, weak: warnsOfWeakCrypto(software) }
  const template = readFileSync(TEMPLATE, 'utf8')
    .replaceAll(/^\[(\w+)\](.*\n)/gm, (_, feature: string, line: string) => (features[feature] ? line : ''))
    .trimEnd()
  const entries = [...nodes].map(node => {
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
  // The last line of the file before may lack its end, and lines after these are for all hosts.
  return `\n${features['weak'] ? IGNORE_UNKNOWN : ''}${entries.join('\n\n')}\n\nMatch all\n`
}

/** From 10.1 on OpenSSH warns at each connection without post-quantum key exchange, as those to the manage endpoint are. */
function warnsOfWeakCrypto(software: string): boolean {
  const [, major, minor] = /^OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)/.exec(software) ?? []
  return Number(major) > 10 || (Number(major) === 10 && Number(minor) >= 1)
}

/** One known_hosts line; ports other than 22 are written with brackets (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). */
export const knownHostsLine = (host: string, port: number, publicKey: string): string =>
  `${port === 22 ? host : `[${host}]:${port}`} ${publicKey}`
