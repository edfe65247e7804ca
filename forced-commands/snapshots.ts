import { defineCommand, type Command, type Invocation } from '../src/command/command.ts'
import { manageLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { drawTable } from '../src/command/table.ts'
import { formatBytes, formatDuration } from '../src/command/units.ts'
import type { Config } from '../src/config.ts'
import type { User } from '../src/directory/users.ts'
import { UserError } from '../src/errors.ts'
import { readUsage } from '../src/snapshots/limits.ts'
import type { SnapshotRecord } from '../src/snapshots/snapshot-records.ts'
import type { Snapshots } from '../src/snapshots/snapshots.ts'
import type { Tokens } from '../src/snapshots/tokens.ts'

interface Parts {
  config: Config
  snapshots: Snapshots
  tokens: Tokens
}

export default ({ config, snapshots, tokens }: Parts): Command =>
  defineCommand({
    command: 'snapshots [action] [name] [token]',
    describe: 'list your snapshots; `snapshots remove NAME`',
    epilogue: 'The list is the same on every node: a snapshot can be recovered on any of them.',
    allowedFor: ['member'],
    secretWords: [2],
    builder: yargs =>
      yargs
        .positional('action', {
          type: 'string',
          choices: ['list', 'remove'] as const,
          default: 'list' as const,
          describe: 'what to do'
        })
        .positional('name', { type: 'string', describe: 'the snapshot to remove' })
        .positional('token', { type: 'string', describe: 'what `snapshots remove NAME` printed' })
        .option('json', { type: 'boolean', default: false, describe: 'as one JSON document' }),
    async handler({ action, name, token, json }, invocation) {
      const user = requireUser(invocation.principal)
      const { reply, node } = invocation
      if ((action === 'remove') !== (name !== undefined)) {
        throw new UserError('usage', action === 'remove' ? 'Which snapshot? Its name is missing.' : undefined, {
          hint: `See: ${manageLine(node, 'snapshots')}`
        })
      }
      const { directory } = snapshots
      if (name === undefined) {
        const list = snapshots.records.listFor(user)
        if (json) reply.json(list.map(record => toJson(record, user, directory.path)))
        else reply.out(describeList(list, config, invocation))
        return
      }
      const record = snapshots.records.need(user, name, directory.path)
      const purpose = { user, node: node.name, action: 'remove-snapshot', subject: record.name } as const
      const again = manageLine(node, `snapshots remove ${record.name}`)
      if (token === undefined) {
        const offered = tokens.issue(purpose)
        if (json) return reply.json({ ...toJson(record, user, directory.path), ...offered })
        reply.out(`This deletes ${record.name} for good: ${describeOne(record)}.`)
        reply.out('Nothing has been done yet. To go on, within 5 minutes:')
        reply.out(`  ${again} ${offered.token}`)
        return
      }
      tokens.check(token, purpose, again)
      // The token is spent first: two who race for it must not both be told that they did it.
      await directory.check()
      tokens.spend(token, purpose, again)
      await snapshots.remove(user, record)
      if (json) return reply.json({ removed: record.name })
      reply.out(`Removed ${record.name}; ${formatBytes(record.sizeBytes)} are free again.`)
    }
  })

const toJson = ({ userId: _id, instance: _instance, ...record }: SnapshotRecord, user: User, directory: string) => ({
  ...record,
  path: `${directory}/${user.name}/${record.name}`
})

const describeOne = (record: SnapshotRecord): string =>
  [
    `taken on ${record.node} ${formatDuration(Date.now() - record.createdAtMs)} ago`,
    formatBytes(record.sizeBytes),
    ...(record.note === '' ? [] : [`"${record.note}"`])
  ].join(', ')

function describeList(list: SnapshotRecord[], config: Config, { node }: Invocation): string {
  const usage = readUsage(config.snapshots, list, 0)
  const max = usage.maxBytes === Infinity ? 'any number of bytes' : formatBytes(usage.maxBytes)
  const sum = `${usage.count} of ${usage.maxCount} snapshots, ${formatBytes(usage.bytes)} of ${max}.`
  if (list.length === 0) return `You have no snapshot yet. Take one with: ${manageLine(node, 'snapshot')}`
  const table = drawTable(
    ['NAME', 'NODE', 'SIZE', 'AGE', 'TEMPLATE', 'NOTE'],
    list.map(record => [
      record.name,
      record.node,
      formatBytes(record.sizeBytes),
      formatDuration(Date.now() - record.createdAtMs),
      record.template,
      record.note + (record.scheduled ? ' (scheduled)' : '')
    ])
  )
  return `${table}\n${sum}\nBring one back:  ${manageLine(node, 'recover')}`
}
