import { defineCommand, type Command } from '../src/command/command.ts'
import { loginLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { stopTimeoutMs, stopTimeoutOption } from '../src/command/stop-timeout.ts'
import type { Containers } from '../src/containers/containers.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'restart',
    describe: 'stop it and start it again',
    allowedFor: ['member'],
    builder: yargs => yargs.option('timeout', stopTimeoutOption),
    async handler({ timeout }, { principal, node, reply }) {
      const user = requireUser(principal)
      const timeoutMs = stopTimeoutMs(timeout)
      const progress = reply.progress(`Restarting on ${node.name}`)
      await containers.restart(user, node, { timeoutMs }, progress.update).finally(() => progress.done())
      reply.out(`Your container runs again on ${node.name}.`)
      reply.out(`Log in:  ${loginLine(node)}`)
    }
  })
