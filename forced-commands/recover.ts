import { defineCommand, type Command, type Invocation } from '../src/command/command.ts'
import { manageLine } from '../src/command/lines.ts'
import {
  confirmBy,
  followRunning,
  missingWord,
  offerToken,
  rebuildFrom,
  tellNext,
  type ReplacingParts
} from '../src/command/replacing.ts'
import { requireUser } from '../src/command/require-user.ts'
import { drawTable } from '../src/command/table.ts'
import { formatBytes, formatDuration, formatTime } from '../src/command/units.ts'
import type { User } from '../src/directory/users.ts'
import { UserError } from '../src/errors.ts'
import type { Snapshots } from '../src/snapshots/snapshots.ts'

interface Parts extends ReplacingParts {
  snapshots: Snapshots
}

const TEMPLATES = 'templates/'

export default (parts: Parts): Command =>
  defineCommand({
    command: 'recover [token] [path]',
    describe: 'put a snapshot in place of your container; `recover --undo`',
    epilogue: [
      'Without words it lists what can be recovered, from any node, says what will happen, and prints a token.',
      `PATH is what \`snapshot\` printed, the file's name alone, or ${TEMPLATES}NAME for what \`rebuild\` does.`,
      '--undo brings the replaced container back while it is kept; no token is needed, for nothing is lost by it.'
    ].join('\n'),
    allowedFor: ['member'],
    secretWords: [0],
    builder: yargs =>
      yargs
        .positional('token', { type: 'string', describe: 'what `recover` printed' })
        .positional('path', { type: 'string', describe: 'the snapshot' })
        .option('undo', { type: 'boolean', default: false, describe: 'bring the replaced container back' }),
    async handler({ token, path, undo }, invocation) {
      const user = requireUser(invocation.principal)
      if (undo && token !== undefined)
        throw new UserError('usage', '--undo takes no other words.', {
          hint: `Type: ${manageLine(invocation.node, 'recover --undo')}`
        })
      if (undo) return undoLast(parts, user, invocation)
      if (token === undefined) return offer(parts, user, invocation)
      const named = path ?? missingWord('snapshot', 'recover', invocation)
      if (named.startsWith(TEMPLATES)) return rebuildFrom(parts, user, named.slice(TEMPLATES.length), token, invocation)
      await recoverFrom(parts, user, named, token, invocation)
    }
  })

async function offer(parts: Parts, user: User, invocation: Invocation): Promise<void> {
  if (await followRunning(parts, user, invocation)) return
  const { node, reply } = invocation
  const snapshots = parts.snapshots.records.listFor(user)
  if (snapshots.length === 0) {
    reply.out('You have no snapshots. Without one:')
    reply.out(
      `  ${manageLine(node, 'rebuild')} starts over from a template; ${manageLine(node, 'snapshot')} makes one.`
    )
    return
  }
  const nowMs = Date.now()
  const rows = snapshots.map(({ name, node: from, sizeBytes, createdAtMs, template, note }) => [
    `${parts.snapshots.directory.path}/${user.name}/${name}`,
    from,
    formatBytes(sizeBytes),
    `${formatDuration(nowMs - createdAtMs)} ago`,
    template,
    note
  ])
  reply.out(drawTable(['PATH', 'NODE', 'SIZE', 'TAKEN', 'TEMPLATE', 'NOTE'], rows))
  reply.out('')
  reply.out(
    `The snapshot takes the place of your container on ${node.name}: all files in the present one are replaced, your home`
  )
  reply.out('directory too. Your keys, fixed port, limits, mounts and SSH host identity stay as they are.')
  await offerToken(
    parts,
    user,
    offered => `recover ${offered} ${snapshots.length === 1 ? snapshots[0]?.name : 'PATH'}`,
    invocation
  )
}

async function recoverFrom(
  parts: Parts,
  user: User,
  named: string,
  token: string,
  invocation: Invocation
): Promise<void> {
  const { node, reply } = invocation
  const confirmation = confirmBy(parts.tokens, user, token, 'recover', invocation)
  confirmation.check()
  const snapshot = parts.snapshots.records.need(user, named, parts.snapshots.directory.path)
  const progress = reply.progress(`Recovering on ${node.name}`)
  await parts.replacements.recover(user, node, snapshot, confirmation, progress.update).finally(() => progress.done())
  reply.out(
    `Your container on ${node.name} is as it was at ${formatTime(snapshot.createdAtMs)} UTC on ${snapshot.node}.`
  )
  tellNext(invocation)
}

async function undoLast({ replacements }: Parts, user: User, invocation: Invocation): Promise<void> {
  const { node, reply } = invocation
  const progress = reply.progress(`Taking back on ${node.name}`)
  await replacements.undo(user, node, progress.update).finally(() => progress.done())
  reply.out(`Your container on ${node.name} is the one it was before; the other one is kept in its turn.`)
  tellNext(invocation)
}
