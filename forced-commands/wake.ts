import { defineCommand, type Command } from '../src/command/command.ts'
import { requireUser } from '../src/command/require-user.ts'
import type { Containers } from '../src/containers/containers.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'wake',
    describe: 'start it unless you stopped it; what `ssh NODE` asks for first',
    epilogue: 'Silent when it runs. After a `stop` it refuses, or an editor that connects again would undo it.',
    allowedFor: ['member'],
    builder: yargs => yargs,
    async handler(_args, { principal, node, reply }) {
      const user = requireUser(principal)
      await containers.wake(user, node, () => reply.err(`Starting your container on ${node.name}…`))
    }
  })
