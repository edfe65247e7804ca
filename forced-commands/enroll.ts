import type { Config } from '../src/config.ts'
import { defineCommand, type Command } from '../src/command/command.ts'
import { plainManageLine } from '../src/command/lines.ts'
import type { Containers } from '../src/containers/containers.ts'
import type { Invites } from '../src/directory/invites.ts'

interface Parts {
  invites: Invites
  containers: Containers
  config: Config
}

export default ({ invites, containers, config }: Parts): Command =>
  defineCommand({
    command: 'enroll <name> <code>',
    describe: 'enrol the key you have just proven, with the code of your invite',
    epilogue: 'As ssh enroll@HOST NAME CODE. A code works once, within 7 days, for the name it was made for.',
    allowedFor: ['enroll'],
    secretWords: [1],
    builder: yargs =>
      yargs
        .positional('name', { type: 'string', demandOption: true, describe: 'your user name' })
        .positional('code', { type: 'string', demandOption: true, describe: 'the one-time code your admin sent' }),
    async handler({ name, code }, { principal, node, reply }) {
      const { user, added } = invites.redeem(name, code, principal.key)
      // A member who lost every key has containers that must learn the new one.
      if (added) await containers.pushKeys(user)
      reply.out(
        added
          ? `Your key ${principal.key.fingerprint} is enrolled for ${user.name}.`
          : `Your key was enrolled for ${user.name} already.`
      )
      reply.out('')
      reply.out('Now type these lines, the first two once for all nodes:')
      reply.out(`  ${plainManageLine(node, user.name, 'config >> ~/.ssh/config')}`)
      reply.out(`  ${plainManageLine(node, user.name, 'known-hosts >> ~/.ssh/known_hosts')}`)
      for (const each of config.nodes.values()) reply.out(`  ssh register@${each.name}-manage ${user.name}`)
      reply.out('')
      reply.out('If your key is not one that ssh tries by itself, add the same `-i FILE` to the first two lines,')
      reply.out('and a line `IdentityFile FILE` below each Host line of the config.')
    }
  })
