import type { Config } from '../src/config.ts'
import { defineCommand, type Command } from '../src/command/command.ts'
import { requireUser } from '../src/command/require-user.ts'
import { linkUrl, webAddress, type SignInLinks } from '../src/directory/sign-in-links.ts'
import { UserError } from '../src/errors.ts'

export default ({ links, config }: { links: SignInLinks; config: Config }): Command =>
  defineCommand({
    command: 'web',
    describe: 'print a link that signs you in to the web pages, once',
    epilogue: 'It works once, within 10 minutes. A new one ends the one before. Give it to nobody.',
    allowedFor: ['member'],
    builder: yargs => yargs,
    async handler(_args, { principal, reply }) {
      const address = webAddress(config.web)
      if (address === undefined) {
        throw new UserError('no-web', undefined, {
          hint: 'All that they do can be typed as well: ssh NODE-manage help'
        })
      }
      const { secret } = links.create(requireUser(principal))
      if (config.web.publicUrl === undefined)
        reply.err('This may open on the berth machine alone: your admin has not set web.publicUrl.')
      reply.out(linkUrl(address, secret))
    }
  })
