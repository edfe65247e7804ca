import type { z } from 'zod'
import type { App } from '../app.ts'
import { UserError } from '../errors.ts'
import type { Report } from '../operations/operations.ts'

/** Something an admin does to the state. It runs in the one process that owns the state: parameters and result are plain JSON. */
export interface Action<Params = unknown, Result = unknown> {
  readonly name: string
  readonly params: z.ZodType<Params>
  /** Changes nothing, so it needs no lock when `serve` does not run. */
  readonly readOnly: boolean
  act(app: App, params: Params, report: Report): Promise<Result> | Result
}

export function defineAction<Params, Result>(
  name: string,
  params: z.ZodType<Params>,
  act: (app: App, params: Params, report: Report) => Promise<Result> | Result,
  { readOnly = false }: { readOnly?: boolean } = {}
): Action<Params, Result> {
  return { name, params, readOnly, act }
}

/** Checks the parameters, then acts. @throws UserError `usage`, and whatever the action throws */
export function runAction<Params, Result>(
  app: App,
  { params, act }: Action<Params, Result>,
  given: unknown,
  report: Report
): Promise<Result> | Result {
  const parsed = params.safeParse(given)
  if (parsed.success) return act(app, parsed.data, report)
  const faults = parsed.error.issues.map(issue => `${issue.path.join('.')}: ${issue.message}`)
  throw new UserError('usage', `${faults.join('; ')}.`, { hint: 'Add --help to the command to see what it takes.' })
}
