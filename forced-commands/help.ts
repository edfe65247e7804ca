import { defineCommand, type Command } from '../src/command/command.ts'
import { manageLine, loginLine } from '../src/command/lines.ts'
import { commandHelp } from '../src/command/parser.ts'
import { verbOf } from '../src/command/run-command.ts'
import { UserError } from '../src/errors.ts'

export default ({ list }: { list: () => readonly Command[] }): Command =>
  defineCommand({
    command: 'help [command]',
    describe: 'explain the commands; `help COMMAND` one of them',
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
      const lines: [string, string][] = [
        [loginLine(node), 'into your container (scp, sftp, rsync, -L, -X, VS Code too)'],
        [manageLine(node), 'start it, or show its state'],
        ...list()
          .filter(command => command.allowedFor.includes(principal.role))
          .map(command => [manageLine(node, verbOf(command)), command.describe] as [string, string])
      ]
      const width = Math.max(...lines.map(([line]) => line.length)) + 2
      reply.out(`${bold('berth')}: your own container on ${node.name}, with root rights inside.`)
      reply.out('')
      for (const [line, describe] of lines) reply.out(`  ${line.padEnd(width)}${dim(describe)}`)
      reply.out('')
      reply.out(`One command in detail: ${manageLine(node, 'help COMMAND')}`)
    }
  })
