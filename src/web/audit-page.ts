import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { formatDuration, formatTime } from '../command/units.ts'
import { readForm } from './forms.ts'
import { needAdmin, type SiteParts } from './site.ts'

const PAGE_SIZE = 100

const auditQuery = z.object({
  user: z.string().trim().max(100).catch(''),
  before: z.coerce.number().int().positive().optional().catch(undefined)
})

/** Who did what, newest first. */
export function addAuditPage(app: FastifyInstance, { audit }: SiteParts): void {
  app.get('/admin/audit', (request, reply) => {
    needAdmin(request)
    const { user: asked, before } = readForm(auditQuery, request.query)
    const rows = audit.list({ user: asked || undefined, beforeId: before, limit: PAGE_SIZE }).reverse()
    const oldest = rows.length === PAGE_SIZE ? rows.at(-1)?.id : undefined
    return reply.page('audit', {
      asked,
      isOlder: before !== undefined,
      older: oldest === undefined ? undefined : `/admin/audit?user=${encodeURIComponent(asked)}&before=${oldest}`,
      rows: rows.map(row => ({
        time: formatTime(row.atMs),
        who: row.user ?? `(${row.login})`,
        address: row.address,
        node: row.node,
        words: row.words,
        reason: row.reason,
        exitCode: row.exitCode ?? '–',
        isGood: row.exitCode === 0,
        took: row.durationMs === undefined ? '–' : formatDuration(row.durationMs)
      }))
    })
  })
}
