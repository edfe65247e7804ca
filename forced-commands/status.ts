import { defineCommand, type Command } from '../src/command/command.ts'
import { describeStatus } from '../src/command/describe-status.ts'
import { requireUser } from '../src/command/require-user.ts'
import type { Containers } from '../src/containers/containers.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'status',
    describe: 'state, addresses, use against limits, faults',
    allowedFor: ['member'],
    builder: yargs => yargs.option('json', { type: 'boolean', default: false, describe: 'as one JSON document' }),
    async handler({ json }, { principal, node, reply }) {
      const user = requireUser(principal)
      const status = await containers.status(user, node)
      if (json) reply.json(status)
      else reply.out(describeStatus(status, user, node, reply.colors))
    }
  })
