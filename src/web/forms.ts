import type { z } from 'zod'
import { UserError } from '../errors.ts'

/** The fields of a form, or the words of a path or query. @throws UserError `bad-request`: no page of ours sends anything else */
export function readForm<T>(schema: z.ZodType<T>, given: unknown): T {
  const parsed = schema.safeParse(given ?? {})
  if (parsed.success) return parsed.data
  const fields = parsed.error.issues.map(issue => issue.path.join('.')).filter(Boolean)
  throw new UserError(
    'bad-request',
    fields.length > 0 ? `Not understood: ${[...new Set(fields)].join(', ')}.` : undefined,
    {
      hint: 'Go back and try again.',
      cause: parsed.error
    }
  )
}
