import type { NodeConfig } from '../config.ts'
import type { Containers } from '../containers/containers.ts'
import { knownHostsLine } from '../directory/ssh-config.ts'
import type { User } from '../directory/users.ts'

/** The known_hosts lines of all nodes and of the member's containers, so that ssh has nothing to ask. */
export function knownHosts(
  user: User,
  nodes: Iterable<NodeConfig>,
  { containers, hostPublicKey }: { containers: Containers; hostPublicKey: string }
): string {
  return [...nodes]
    .flatMap(node => [
      knownHostsLine(node.manageAddress, node.managePort, hostPublicKey),
      ...containers.hostKeys(user, node).map(key => knownHostsLine(node.address, user.fixedPort, key.publicKey))
    ])
    .join('\n')
}
