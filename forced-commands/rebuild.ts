import { defineCommand, type Command } from '../src/command/command.ts'
import { followRunning, missingWord, offerToken, rebuildFrom, type ReplacingParts } from '../src/command/replacing.ts'
import { requireUser } from '../src/command/require-user.ts'
import { drawTable } from '../src/command/table.ts'
import type { Config } from '../src/config.ts'

export default (parts: ReplacingParts & { config: Config }): Command =>
  defineCommand({
    command: 'rebuild [token] [template]',
    describe: 'start over from a template: a fresh container in place of yours',
    epilogue: [
      'Without words it lists the templates, says what will happen, and prints a token.',
      'Your keys, fixed port, limits, mounts and SSH host identity stay; your files do not, the home directory among them.'
    ].join('\n'),
    allowedFor: ['member'],
    secretWords: [0],
    builder: yargs =>
      yargs
        .positional('token', { type: 'string', describe: 'what `rebuild` printed' })
        .positional('template', { type: 'string', describe: 'what to start from' }),
    async handler({ token, template }, invocation) {
      const user = requireUser(invocation.principal)
      const { node, reply } = invocation
      if (token !== undefined) {
        return rebuildFrom(parts, user, template ?? missingWord('template', 'rebuild', invocation), token, invocation)
      }
      if (await followRunning(parts, user, invocation)) return
      const present = parts.replacements.needTemplateOf(user, node)
      const rows = parts.config.templates.map(({ name, description }) => [
        name,
        name === present ? 'yours' : '',
        description
      ])
      reply.out(drawTable(['TEMPLATE', '', 'DESCRIPTION'], rows))
      reply.out('')
      reply.out(
        `A fresh container takes the place of yours on ${node.name}: all files in yours are replaced, your home directory too.`
      )
      reply.out('Your keys, fixed port, limits, mounts and SSH host identity stay as they are.')
      await offerToken(
        parts,
        user,
        offered => `rebuild ${offered} ${rows.length === 1 ? rows[0]?.[0] : 'TEMPLATE'}`,
        invocation
      )
    }
  })
