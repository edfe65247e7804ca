import type { Config } from '../src/config.ts'
import { defineCommand, type Command } from '../src/command/command.ts'
import { requireUser } from '../src/command/require-user.ts'
import { renderSshConfig } from '../src/directory/ssh-config.ts'
import { UserError } from '../src/errors.ts'

export default ({ config }: { config: Config }): Command =>
  defineCommand({
    command: 'config',
    describe: 'print your ~/.ssh/config entries for all nodes',
    epilogue: [
      'Append them once:   ssh NODE-manage config >> ~/.ssh/config',
      'Or keep them apart: ssh NODE-manage config > ~/.ssh/berth_new && mv ~/.ssh/berth_new ~/.ssh/berth_config',
      '                    with the line `Include berth_config` at the top of ~/.ssh/config; type it again when nodes change.',
      'With them, `ssh NODE` starts a container that is stopped (not after a `stop` of yours).'
    ].join('\n'),
    allowedFor: ['member'],
    builder: yargs =>
      yargs
        .option('windows', { type: 'boolean', default: false, describe: 'for the OpenSSH of Windows' })
        .option('no-wake', { type: 'boolean', default: false, describe: '`ssh NODE` starts nothing' })
        .option('wake', {
          type: 'boolean',
          default: false,
          describe: 'with --windows: `ssh NODE` starts it there too'
        }),
    async handler({ windows, wake, 'no-wake': noWake }, { principal, software, reply }) {
      if (wake && noWake) throw new UserError('usage', '--wake and --no-wake contradict each other.')
      const options = { windows, software, ...((wake || noWake) && { wake }) }
      reply.out(renderSshConfig(requireUser(principal), config.nodes.values(), options).trimEnd())
    }
  })
