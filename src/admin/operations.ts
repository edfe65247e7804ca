import { z } from 'zod'
import { formatDuration } from '../command/units.ts'
import { UserError } from '../errors.ts'
import { defineAction } from './action.ts'
import { defineCommand, jsonOption } from './admin-command.ts'
import { formatTime } from './console.ts'

const listOperations = defineAction(
  'operations.list',
  z.strictObject({ limit: z.int().nonnegative() }),
  (app, { limit }) => app.operations.list(limit),
  { readOnly: true }
)

export const operationActions = [listOperations]

export const operations = defineCommand({
  command: 'operations',
  describe: 'what runs, and what was interrupted and not yet put right',
  epilogue: `An operation that a crash interrupted keeps its container, and no other, until \`berth serve\` has put it right: it decides by
what LXD has, and tries again every half minute. The last column says why that failed, and what to do.`,
  builder: yargs =>
    yargs
      .option('limit', {
        type: 'number',
        requiresArg: true,
        default: 0,
        describe: 'show also the newest so many that have ended'
      })
      .option('json', jsonOption),
  async handler({ limit, json }, { console, perform }) {
    if (!Number.isInteger(limit) || limit < 0) throw new UserError('usage', '--limit is no count.')
    const rows = await perform(listOperations, { limit })
    if (json) return console.json(rows)
    if (rows.length === 0) return console.out('Nothing runs.')
    console.table(
      ['ID', 'USER', 'NODE', 'OPERATION', 'BEGUN', 'TOOK', 'STATE'],
      rows.map(row => [
        String(row.id),
        row.user,
        row.node,
        row.kind,
        formatTime(row.startedAtMs),
        formatDuration((row.finishedAtMs ?? Date.now()) - row.startedAtMs),
        row.outcome ?? row.step ?? describeOpen(row)
      ])
    )
  }
})

function describeOpen({ phase, fault }: { phase: string | undefined; fault: string | undefined }): string {
  if (fault !== undefined) return `interrupted, and not yet put right: ${fault}`
  return phase === undefined ? 'runs' : `${phase}; without \`berth serve\` it is put right when that starts`
}
