import { z } from 'zod'
import { LxdError } from './lxd-error.ts'

/** Go writes `null` for an empty list or map. */
export const listOf = <T extends z.ZodType>(item: T) =>
  z
    .array(item)
    .nullish()
    .transform(list => list ?? [])
export const dictOf = <T extends z.ZodType>(value: T) =>
  z
    .record(z.string(), value)
    .nullish()
    .transform(dict => dict ?? {})
export const text = z.string().default('')
/** `config` of anything: LXD keeps every value as a string. */
export const configMap = dictOf(z.string())
/** Devices by name; each a flat map with at least `type`. */
export const deviceMap = dictOf(z.record(z.string(), z.string()))

export type ConfigMap = Readonly<Record<string, string>>
export type DeviceMap = Readonly<Record<string, ConfigMap>>

/** What every JSON answer is wrapped in (API description: "Return values"). */
export const envelope = z.looseObject({
  type: z.enum(['sync', 'async', 'error']),
  status_code: z.number().optional(),
  error_code: z.number().optional(),
  error: z.string().optional(),
  operation: z.string().optional(),
  metadata: z.unknown().optional()
})

/** @throws LxdError `not-understood` naming what was asked and each fault by its path */
export function parseAnswer<T extends z.ZodType>(schema: T, value: unknown, what: string): z.output<T> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const faults = parsed.error.issues.map(issue => `${issue.path.join('.')}: ${issue.message}`)
  throw new LxdError('not-understood', `${what}: ${faults.join('; ')}`)
}
