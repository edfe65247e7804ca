import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { formatTime } from '../command/units.ts'
import { addKeyLines, keyLines } from '../directory/key-lines.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { audited } from './audited.ts'
import { readForm } from './forms.ts'
import type { KeyChanges } from './key-changes.ts'
import { statusOf } from './layout.ts'
import { needUser, seeOther, type SiteParts } from './site.ts'

const addForm = z.object({
  keys: z.string().default(''),
  file: z.instanceof(Buffer).optional()
})
const removeForm = z.object({ fingerprint: z.string().max(100) })

/** The member's keys: list, add by text or file, remove; and where the last change has arrived. */
export function addKeysPage(app: FastifyInstance, parts: SiteParts, changes: KeyChanges): void {
  const { keys, audit, pages } = parts

  app.get('/keys', (request, reply) => showKeys(reply, needUser(request)))

  app.post('/keys/add', async (request, reply) => {
    const user = needUser(request)
    const { keys: typed, file } = readForm(addForm, request.body)
    try {
      const lines = keyLines(`${typed}\n${file?.toString('utf8') ?? ''}`)
      if (lines.length === 0)
        throw new UserError('bad-key', 'It is empty.', { hint: 'Give the content of a .pub file.' })
      const added = await audited(audit, request, { words: ['keys', 'add'] }, () => addKeyLines(keys, user, lines))
      await changes.follow(user, { kind: 'added', keys: added })
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      return showKeys(reply, user, error, typed)
    }
    return seeOther(reply, '/keys')
  })

  app.post('/keys/remove', async (request, reply) => {
    const user = needUser(request)
    const { fingerprint } = readForm(removeForm, request.body)
    // Even the last: whoever lost a machine must be able to shut it out at once, and stands here to add another.
    const removed = await audited(audit, request, { words: ['keys', 'remove', fingerprint] }, () =>
      keys.remove(user, fingerprint, { evenLast: true })
    )
    await changes.follow(user, { kind: 'removed', keys: [removed] })
    return seeOther(reply, '/keys')
  })

  function showKeys(reply: FastifyReply, user: User, error?: UserError, typed = '') {
    const { language } = reply.request.visitor
    const change = changes.last(user)
    if (change?.waiting) reply.header('refresh', '1')
    const list = keys.listFor(user)
    return reply.code(error ? statusOf(error) : 200).page('keys', {
      title: 'keys.title',
      error: error && pages.explain(error, language),
      // What was refused as a private key must not travel back.
      typed: /PRIVATE KEY|PuTTY-User-Key/.test(typed) ? '' : typed,
      change,
      hasKeys: list.length > 0,
      keys: list.map((key, index) => ({
        type: key.type.replace(/^ecdsa-sha2-/, 'ecdsa-').replace(/@openssh\.com$/, ''),
        bits: key.bits,
        fingerprint: key.fingerprint,
        comment: key.comment,
        added: formatTime(key.addedAtMs),
        used: key.lastUsedAtMs === undefined ? undefined : formatTime(key.lastUsedAtMs),
        address: key.lastUsedAddress ?? '',
        isLast: list.length === 1,
        number: index + 1
      }))
    })
  }
}
