import type { Config } from '../src/config.ts'
import { defineCommand, type Command } from '../src/command/command.ts'
import { knownHosts } from '../src/command/known-hosts.ts'
import { requireUser } from '../src/command/require-user.ts'
import type { Containers } from '../src/containers/containers.ts'

interface Parts {
  config: Config
  containers: Containers
  /** Public host key of the manage endpoints, `ssh-ed25519 AAAA…`. */
  hostPublicKey: string
}

export default ({ config, containers, hostPublicKey }: Parts): Command =>
  defineCommand({
    command: 'known-hosts',
    describe: 'print the known_hosts lines of all nodes and your containers',
    epilogue: 'Append them once, and ssh asks no question: ssh NODE-manage known-hosts >> ~/.ssh/known_hosts',
    allowedFor: ['member'],
    builder: yargs => yargs,
    async handler(_args, { principal, reply }) {
      const user = requireUser(principal)
      // All or nothing: the output is appended to a file, where half a list would pass for a whole one.
      reply.out(knownHosts(user, config.nodes.values(), { containers, hostPublicKey }))
    }
  })
