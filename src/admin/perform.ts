import { setTimeout as sleep } from 'node:timers/promises'
import type { App } from '../app.ts'
import type { Config } from '../config.ts'
import { UserError } from '../errors.ts'
import { createLog } from '../log.ts'
import type { Report } from '../operations/operations.ts'
import { type Action, runAction } from './action.ts'
import { callBerth } from './berth-socket.ts'
import { lockState, prepareStateDirectory } from './state-lock.ts'

/** How long a subcommand waits for another one, or for a `serve` that holds the lock and does not listen yet. */
const WAIT_MS = 15_000

/**
 * Performs an action where the state is owned: in `berth serve` when it runs, else here under the same lock.
 * @throws UserError `locked-state` when another process keeps the lock; whatever the action throws
 */
export async function perform<Params, Result>(
  config: Config,
  action: Action<Params, Result>,
  params: Params,
  report: Report
): Promise<Result> {
  prepareStateDirectory(config.stateDir)
  const deadline = Date.now() + WAIT_MS
  for (;;) {
    const answered = await callBerth(config.stateDir, action, params, report)
    if (answered !== undefined) return answered.result
    if (action.readOnly) return actHere(config, action, params, report)
    const lock = lockState(config.stateDir)
    if (lock !== undefined) {
      try {
        return await actHere(config, action, params, report, app => app.operations.takeOver())
      } finally {
        lock.release()
      }
    }
    if (Date.now() > deadline) {
      throw new UserError('locked-state', `${config.stateDir} has been locked for ${WAIT_MS / 1000} s.`, {
        hint: `See which process it is: fuser -v ${config.stateDir}/berth.lock`
      })
    }
    await sleep(100)
  }
}

async function actHere<Params, Result>(
  config: Config,
  action: Action<Params, Result>,
  params: Params,
  report: Report,
  prepare?: (app: App) => void
): Promise<Result> {
  // Only here: when `serve` runs, LXD, SSH and all the rest are its own.
  const { createApp } = await import('../app.ts')
  const app = createApp(config, createLog('silent'))
  try {
    prepare?.(app)
    return await runAction(app, action, params, report)
  } finally {
    await app.close()
  }
}
