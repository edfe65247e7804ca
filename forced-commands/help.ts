import { defineCommand, type Command } from '../src/command/command.ts'
import { manageLine, loginLine } from '../src/command/lines.ts'
import { commandHelp, verbOf } from '../src/command/run-command.ts'
import { UserError } from '../src/errors.ts'

export default ({ list }: { list: () => readonly Command[] }): Command =>
  defineCommand({
    command: 'help [command]',
    describe: 'Explain the commands, or one of them',
    allowedFor: ['member', 'register', 'enroll'],
    builder: yargs => yargs.positional('command', { type: 'string', describe: 'the command to explain' }),
    async handler({ command: verb }, { node, principal, reply }) {
      const { bold, dim } = reply.colors
      if (verb !== undefined) {
        const command = list().find(candidate => verbOf(candidate) === verb)
        if (!command)
          throw new UserError('unknown-command', JSON.stringify(verb), { hint: `See: ${manageLine(node, 'help')}` })
        reply.out(commandHelp(command, node.name))
        return
      }
      reply.out(`${bold('berth')}: your own container on ${node.name}, with root rights inside.`)
      reply.out('')
      reply.out(`  ${loginLine(node).padEnd(34)}${dim('into your container (also scp, sftp, rsync, -L, -X, VS Code)')}`)
      reply.out(`  ${manageLine(node).padEnd(34)}${dim('start it, or show its state')}`)
      const commands = list().filter(command => command.allowedFor.includes(principal.role))
      for (const command of commands)
        reply.out(`  ${manageLine(node, command.command).padEnd(34)}${dim(command.describe)}`)
      reply.out('')
      reply.out(`One command in detail: ${manageLine(node, 'help COMMAND')}`)
    }
  })
