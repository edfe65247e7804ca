import { z } from 'zod'
import { dictOf, text } from './answer.ts'

/** Words for the person who waits, and a fraction between 0 and 1 where LXD tells one. */
export type OnProgress = (step: string, fraction?: number) => void

export const operationSchema = z.looseObject({
  id: z.string(),
  class: text,
  description: text,
  status: text,
  status_code: z.number(),
  err: text,
  may_cancel: z.boolean().default(false),
  metadata: dictOf(z.unknown())
})
export type Operation = z.output<typeof operationSchema>

/** Status codes below 200 are those of an operation still under way. */
export function isFinal(operation: Operation): boolean {
  return operation.status_code >= 200
}

/**
 * Progress from an operation's metadata. LXD tells it as text under keys such as `download_progress` and
 * `create_instance_from_image_unpack_progress`: `rootfs: 45% (12.30MB/s)`, or bare bytes: `12.30MB (4.10MB/s)`.
 */
export function readProgress(
  metadata: Readonly<Record<string, unknown>>
): [step: string, fraction?: number] | undefined {
  for (const [key, value] of Object.entries(metadata)) {
    if (!key.endsWith('_progress') || typeof value !== 'string' || value === '') continue
    const step = key.replace(/_progress$/, '').replaceAll('_', ' ')
    const percent = /(\d{1,3})%/.exec(value)
    return percent ? [step, Math.min(Number(percent[1]), 100) / 100] : [`${step} ${value}`]
  }
  return undefined
}
