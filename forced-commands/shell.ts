import { defineCommand, type Command } from '../src/command/command.ts'
import { requireUser } from '../src/command/require-user.ts'
import type { Containers } from '../src/containers/containers.ts'
import { UserError } from '../src/errors.ts'

export default ({ containers }: { containers: Containers }): Command =>
  defineCommand({
    command: 'shell [command..]',
    describe: 'a root shell in it, even when its sshd or network is broken',
    epilogue: [
      'With a terminal:   ssh -t NODE-manage shell',
      'One command:       ssh NODE-manage shell -- systemctl status ssh',
      'It ends when the connection does. Every `shell` is written in the audit log.'
    ].join('\n'),
    allowedFor: ['member'],
    builder: yargs =>
      yargs
        .positional('command', { type: 'string', array: true, describe: 'a program and its words, after --' })
        .option('user', { type: 'string', default: 'root', requiresArg: true, describe: 'the user in the container' }),
    handler({ command = [], user: loginUser, '--': rest }, invocation) {
      const user = requireUser(invocation.principal)
      if (!/^[a-z_][a-z0-9_-]{0,31}$/.test(loginUser)) throw new UserError('usage', `--user takes a Linux user name.`)
      const words = [...command, ...((rest as string[] | undefined) ?? [])]
      invocation.terminal?.raw()
      return containers.openShell(user, invocation.node, {
        loginUser,
        command: words.length === 0 ? undefined : words,
        terminal: invocation.terminal,
        stdin: invocation.stdin,
        stdout: invocation.stdout,
        stderr: invocation.stderr,
        onSignal: listener => invocation.onSignal(listener),
        gone: invocation.gone
      })
    }
  })
