import { z } from 'zod'
import { UserError } from '../errors.ts'
import { defineAction } from './action.ts'
import { defineCommand, jsonOption } from './admin-command.ts'
import { formatTime } from './console.ts'

export const listAudit = defineAction(
  'audit.list',
  z.strictObject({ user: z.string().optional(), sinceMs: z.number().optional(), limit: z.int().positive() }),
  (app, query) => app.audit.list(query),
  { readOnly: true }
)

export const auditActions = [listAudit]

const SPANS_MS: Record<string, number> = { m: 60_000, h: 3_600_000, d: 86_400_000, w: 7 * 86_400_000 }

/** `2h`, `30m`, `7d`, `2w` ago, or a date such as 2026-11-01 or 2026-11-01T08:00 in local time. @throws UserError `usage` */
function parseSince(text: string, nowMs = Date.now()): number {
  const [, count, unit] = /^(\d{1,6})([mhdw])$/.exec(text) ?? []
  if (count !== undefined && unit !== undefined) return nowMs - Number(count) * (SPANS_MS[unit] as number)
  // A date alone would be UTC to Date.parse (ECMA-262, 21.4.1.32), and the list shows local time.
  const atMs = Date.parse(/^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00` : text)
  if (!Number.isNaN(atMs)) return atMs
  throw new UserError('usage', `--since ${text} is no time.`, { hint: 'Write 30m, 2h, 7d, 2w, or 2026-11-01.' })
}

export const audit = defineCommand({
  command: 'audit',
  describe: 'what members typed at the manage endpoints',
  epilogue:
    'One line a command, oldest first: time, user, address, node, exit code, duration, words. Codes and tokens are masked.',
  builder: yargs =>
    yargs
      .option('user', { type: 'string', requiresArg: true, describe: 'this user alone' })
      .option('since', { type: 'string', requiresArg: true, describe: '30m, 2h, 7d, 2w ago, or a date' })
      .option('limit', { type: 'number', requiresArg: true, default: 1000, describe: 'the newest so many' })
      .option('json', { ...jsonOption, describe: 'print one JSON document, with fingerprints and session ids' }),
  async handler({ user, since, limit, json }, { console, perform }) {
    const sinceMs = since === undefined ? undefined : parseSince(since)
    if (!Number.isInteger(limit) || limit < 1) throw new UserError('usage', '--limit is no count.', {})
    const rows = await perform(listAudit, { user, sinceMs, limit })
    if (json) return console.json(rows)
    if (rows.length === 0) return console.out('Nothing was typed.')
    console.table(
      ['TIME', 'USER', 'ADDRESS', 'NODE', 'EXIT', 'TOOK', 'WORDS'],
      rows.map(row => [
        formatTime(row.atMs),
        row.user ?? `(${row.login})`,
        row.address,
        row.node,
        row.exitCode === undefined ? '-' : String(row.exitCode),
        row.durationMs === undefined ? '-' : `${row.durationMs} ms`,
        row.words + (row.reason === undefined ? '' : `  ${row.reason}`)
      ])
    )
  }
})
