import { defineCommand, type Command } from '../src/command/command.ts'
import { loginLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { parseSeconds } from '../src/command/units.ts'
import type { Containers } from '../src/containers/containers.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'restart',
    describe: 'stop it and start it again',
    allowedFor: ['member'],
    builder: yargs =>
      yargs.option('timeout', {
        type: 'string',
        default: '30',
        requiresArg: true,
        describe: 'seconds to wait before it is killed (0 to 600)'
      }),
    async handler({ timeout }, { principal, node, reply }) {
      const user = requireUser(principal)
      const timeoutMs = parseSeconds('timeout', timeout, 600) * 1000
      const progress = reply.progress(`Restarting on ${node.name}`)
      await containers.restart(user, node, { timeoutMs }, progress.update).finally(() => progress.done())
      reply.out(`Your container runs again on ${node.name}.`)
      reply.out(`Log in:  ${loginLine(node)}`)
    }
  })
