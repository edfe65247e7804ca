import type { Config } from '../src/config.ts'
import { defineCommand, type Command } from '../src/command/command.ts'
import { requireUser } from '../src/command/require-user.ts'
import { renderSshConfig } from '../src/directory/ssh-config.ts'

export default ({ config }: { config: Config }): Command =>
  defineCommand({
    command: 'config',
    describe: 'print your ~/.ssh/config entries for all nodes',
    epilogue: 'Append them once: ssh NODE-manage config >> ~/.ssh/config',
    allowedFor: ['member'],
    builder: yargs => yargs,
    async handler(_args, { principal, reply }) {
      reply.out(renderSshConfig(requireUser(principal), config.nodes.values()).trimEnd())
    }
  })
