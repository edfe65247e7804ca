import { defineCommand, type Command } from '../src/command/command.ts'
import { manageLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { stopTimeoutMs, stopTimeoutOption } from '../src/command/stop-timeout.ts'
import type { Containers } from '../src/containers/containers.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'stop',
    describe: 'stop it: programs are asked to end, and killed after a timeout',
    allowedFor: ['member'],
    builder: yargs => yargs.option('timeout', stopTimeoutOption),
    async handler({ timeout }, { principal, node, reply }) {
      const user = requireUser(principal)
      const timeoutMs = stopTimeoutMs(timeout)
      const progress = reply.progress(`Stopping on ${node.name}`)
      const outcome = await containers.stop(user, node, { timeoutMs }, progress.update).finally(() => progress.done())
      reply.out(
        {
          stopped: `Stopped on ${node.name}.`,
          killed: `Stopped on ${node.name}. It did not end by itself within ${timeout} s and was killed.`,
          'already-stopped': `It was stopped already on ${node.name}.`
        }[outcome]
      )
      reply.out(`Start it again:  ${manageLine(node)}`)
    }
  })
