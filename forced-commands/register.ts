import type { Config } from '../src/config.ts'
import { defineCommand, type Command } from '../src/command/command.ts'
import { loginLine, manageLine, plainLoginLine } from '../src/command/lines.ts'
import type { Containers } from '../src/containers/containers.ts'
import { UserError } from '../src/errors.ts'

export default ({ containers, config }: { containers: Containers; config: Config }): Command =>
  defineCommand({
    command: 'register [name]',
    describe: 'create your container on this node, once',
    epilogue: 'As ssh register@NODE-manage NAME, or with your own login without the name.',
    allowedFor: ['register', 'member'],
    builder: yargs =>
      yargs
        .positional('name', { type: 'string', describe: 'your user name, when you log in as `register`' })
        .option('template', {
          type: 'string',
          requiresArg: true,
          choices: config.templates.map(template => template.name),
          describe: 'what to start from'
        }),
    async handler({ name, template }, { principal, node, reply }) {
      const user = principal.user
      if (!user || (name === undefined && principal.role === 'register')) {
        throw new UserError('usage', 'Your user name is missing.', {
          hint: `Type: ssh register@${node.name}-manage NAME`
        })
      }
      if (name !== undefined && name !== user.name) {
        throw new UserError(
          'not-allowed',
          'That key is not enrolled for that user name: a key registers only its own user.',
          {
            hint: `Type your own user name, or enrol the key first with an invite from your admin.`
          }
        )
      }
      const progress = reply.progress(`Registering ${user.name} on ${node.name}`)
      const { created } = await containers
        .register(user, node, template, progress.update)
        .finally(() => progress.done())
      reply.out(
        created
          ? `Your container on ${node.name} is ready.`
          : `Your container on ${node.name} was there already, and runs.`
      )
      reply.out(`Log in:  ${loginLine(node)}    (without the config: ${plainLoginLine(node, user)})`)
      reply.out(`More:    ${manageLine(node, 'help')}`)
    }
  })
