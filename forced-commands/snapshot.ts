import { defineCommand, type Command, type Invocation } from '../src/command/command.ts'
import { manageLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { formatBytes, formatDuration } from '../src/command/units.ts'
import type { Config } from '../src/config.ts'
import type { User } from '../src/directory/users.ts'
import { UserError } from '../src/errors.ts'
import type { SnapshotRecord } from '../src/snapshots/snapshot-records.ts'
import { notStopped, type SnapshotPlan, type Snapshots } from '../src/snapshots/snapshots.ts'
import type { Tokens } from '../src/snapshots/tokens.ts'

interface Parts {
  config: Config
  snapshots: Snapshots
  tokens: Tokens
}

const MAX_NOTE_LETTERS = 200

export default ({ config, snapshots, tokens }: Parts): Command =>
  defineCommand({
    command: 'snapshot [token]',
    describe: 'save it as an archive on the NAS',
    epilogue: [
      'Without a token it says what will happen and prints one; while a snapshot is being taken it shows how far it is.',
      'It goes on when you disconnect.'
    ].join('\n'),
    allowedFor: ['member'],
    secretWords: [0],
    builder: yargs =>
      yargs.positional('token', { type: 'string', describe: 'what `snapshot` printed' }).option('note', {
        type: 'string',
        default: '',
        requiresArg: true,
        describe: `a word on what it is, for lists; several: --note '"two words"'`
      }),
    async handler({ token, note }, invocation) {
      const user = requireUser(invocation.principal)
      const { node, reply } = invocation
      const purpose = { user, node: node.name, action: 'snapshot' } as const
      const again = manageLine(node, 'snapshot')
      checkNote(note, again)
      if (token !== undefined && note !== '' && !/^\w{20,}$/.test(token)) throw unquoted(again)
      if (token === undefined) {
        if (await follow(snapshots, user, invocation)) return
        const plan = await snapshots.plan(user, node)
        reply.out(describePlan(plan, config, invocation))
        if (plan.running) throw notStopped(node)
        const words = note === '' ? '' : ` --note ${quote(note)}`
        reply.out('Nothing has been done yet. To go on, within 5 minutes:')
        reply.out(`  ${again} ${tokens.issue(purpose).token}${words}`)
        return
      }
      tokens.check(token, purpose, again)
      if ((await snapshots.plan(user, node)).running) throw notStopped(node)
      // Of two with one token, the one who comes second is told so, not that the first one's snapshot runs.
      tokens.check(token, purpose, again)
      const progress = reply.progress(`Snapshot of ${user.name} on ${node.name}`)
      const record = await snapshots
        .take(
          user,
          node,
          {
            note,
            scheduled: false,
            confirm: () => tokens.spend(token, purpose, again),
            onCopied: () => reply.out(`Copied. From now on you may start it again:  ${manageLine(node)}`)
          },
          progress.update
        )
        .finally(() => progress.done())
      reply.out(describeRecord(record, snapshots.directory.path, user))
      reply.out(`Start it:     ${manageLine(node)}`)
      reply.out(`All of them:  ${manageLine(node, 'snapshots')}`)
    }
  })

/** One line of text, since lists show it in one. @throws UserError `usage` */
function checkNote(note: string, again: string): void {
  if (note.length <= MAX_NOTE_LETTERS && /^\P{Cc}*$/u.test(note)) return
  throw new UserError('usage', `--note takes one line of at most ${MAX_NOTE_LETTERS} letters.`, {
    hint: `Type: ${again} --note '"before the upgrade"'`
  })
}

/** ssh hands on the words without the quotes of the member's own shell: the rest of a note looks like a token. */
const unquoted = (again: string) =>
  new UserError('usage', 'A note of several words needs two pairs of quotes, for ssh takes one away.', {
    hint: `Type: ${again} --note '"before the upgrade"'`
  })

/** As the line has to be typed: the member's own shell takes one pair of quotes away, and berth another. */
const quote = (note: string): string =>
  /^[\w@%+=:,./-]+$/.test(note) ? note : `'"${note.replaceAll(/["\\]/g, String.raw`\$&`).replaceAll("'", `'\\''`)}"'`

/** Is one being taken? Then its progress is shown to its end. */
async function follow(snapshots: Snapshots, user: User, { node, reply }: Invocation): Promise<boolean> {
  const progress = reply.progress(`Snapshot of ${user.name} on ${node.name}`)
  const made = await snapshots.follow(user, node, progress.update).finally(() => progress.done())
  if (made) reply.out(describeRecord(made, snapshots.directory.path, user))
  return made !== undefined
}

function describePlan(plan: SnapshotPlan, config: Config, { node, reply }: Invocation): string {
  const { usedBytes, imageBytes, archiveBytes, tookMs, space, usage, freeBytes, directory, template } = plan
  const size = archiveBytes === undefined ? 'not known before' : `about ${formatBytes(archiveBytes)}`
  const time = tookMs === undefined ? '' : `, in about ${formatDuration(tookMs)}`
  const shared = imageBytes === 0 ? '' : `, and the image it shares (${formatBytes(imageBytes)} compressed)`
  const max = usage.maxBytes === Infinity ? 'any number of bytes' : formatBytes(usage.maxBytes)
  const spool =
    space.spoolFreeBytes === undefined
      ? 'LXD makes it on its own disk first; how much is free there cannot be seen from here'
      : `LXD makes it on its own disk first, where ${formatBytes(space.spoolFreeBytes)} are free`
  const facts: [string, string][] = [
    ['container', `${node.name}, ${template}`],
    ['on disk', usedBytes === undefined ? 'not counted by the pool' : formatBytes(usedBytes) + shared],
    ['archive', `${size} (${config.snapshots.compression})${time}`],
    ['goes to', `${directory}, where ${formatBytes(freeBytes)} are free`],
    ['on its way', spool],
    ['you have', `${usage.count} of ${usage.maxCount} snapshots, ${formatBytes(usage.bytes)} of ${max}`],
    [
      'meanwhile',
      space.copiesOnWrite
        ? 'it must be stopped for the second that a copy takes; then you may start it again'
        : 'the pool has no copy-on-write: it must stay stopped until all its files are copied'
    ]
  ]
  return facts.map(([name, fact]) => `${reply.colors.dim(name.padEnd(12))}${fact}`).join('\n')
}

function describeRecord(record: SnapshotRecord, directory: string, user: User): string {
  return [
    `Saved as:     ${directory}/${user.name}/${record.name}`,
    `Size:         ${formatBytes(record.sizeBytes)} (${formatBytes(record.uncompressedBytes)} inside)`,
    `SHA-256:      ${record.sha256}`,
    `Took:         ${formatDuration(record.tookMs)}`
  ].join('\n')
}
