import { defineCommand, type Command } from '../src/command/command.ts'
import { manageLine, loginLine } from '../src/command/lines.ts'
import { commandHelp } from '../src/command/parser.ts'
import { unknownCommand, verbOf } from '../src/command/run-command.ts'

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
        if (!command) throw unknownCommand(list(), verb, { principal, node })
        reply.out(commandHelp(command, node.name))
        return
      }
      const lines: [string, string][] = [
        [loginLine(node), 'into it; also scp, sftp, rsync, -L, -X, VS Code'],
        [manageLine(node), 'start it, or show its state'],
        [manageLine(node, 'COMMAND'), 'with one of these commands:']
      ]
      const verbs = list()
        .filter(command => command.allowedFor.includes(principal.role))
        .map(command => [verbOf(command), command.describe] as [string, string])
      reply.out(`${bold('berth')}: your own container on ${node.name}, with root rights inside.`)
      for (const rows of [lines, verbs]) {
        const width = Math.max(...rows.map(([line]) => line.length)) + 2
        reply.out('')
        for (const [line, describe] of rows) reply.out(`  ${line.padEnd(width)}${dim(describe)}`)
      }
      reply.out('')
      reply.out(`One command in detail: ${manageLine(node, 'help COMMAND')}`)
    }
  })
