import { defineCommand, type Command } from '../src/command/command.ts'
import { loginLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { describeStatus } from '../src/command/describe-status.ts'
import type { Containers } from '../src/containers/containers.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'start',
    describe: 'start it, or show its state when it runs',
    allowedFor: ['member'],
    builder: yargs => yargs,
    async handler(_args, { principal, node, reply }) {
      const user = requireUser(principal)
      const progress = reply.progress(`Starting on ${node.name}`)
      const { already } = await containers.start(user, node, progress.update).finally(() => progress.done())
      if (already) {
        reply.out(describeStatus(await containers.status(user, node), user, node, reply.colors))
      } else {
        reply.out(`Your container runs on ${node.name}.`)
        reply.out(`Log in:  ${loginLine(node)}`)
      }
    }
  })
