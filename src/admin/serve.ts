import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { createApp } from '../app.ts'
import { isReadinessAwaited } from '../config.ts'
import { UserError } from '../errors.ts'
import { createLog, type Log } from '../log.ts'
import { actions } from './actions.ts'
import { defineCommand } from './admin-command.ts'
import { listenOnBerthSocket } from './berth-socket.ts'
import { lockState, prepareStateDirectory } from './state-lock.ts'
import { BERTH_VERSION } from './version.ts'

/** After this long a shutdown ends without waiting for what still runs; the journal resolves it at the next start. */
const SHUTDOWN_MS = 20_000

export const serve = defineCommand({
  command: 'serve',
  describe: 'run berth: the manage endpoint of every node',
  epilogue: `Runs in the foreground and logs one JSON line an event on standard output; {"msg":"ready"} says that every endpoint
listens. \`berth init\` writes a systemd unit that starts it. SIGTERM ends it cleanly. Neither its end nor its crash
touches a container: sessions into containers do not pass through berth.`,
  builder: yargs =>
    yargs.option('log-level', {
      choices: ['debug', 'info', 'warn', 'error'] as const,
      default: 'info' as const,
      describe: 'the least important events to log'
    }),
  async handler({ logLevel }, session) {
    process.umask(0o077)
    const config = session.loadConfig()
    const log = createLog(logLevel)
    prepareStateDirectory(config.stateDir)
    // `doctor` takes the lock for an instant to see whether somebody has it.
    const lock = lockState(config.stateDir, { waitMs: 1000 })
    if (lock === undefined) {
      throw new UserError('locked-state', `${config.stateDir} is in use: berth serve runs already.`, {
        hint: 'Look at it with: systemctl status berth'
      })
    }
    const stopping = stopSignal(log)
    const app = createApp(config, log)
    try {
      await app.startEndpoints()
      const socket = await listenOnBerthSocket(app, actions, log)
      const listening = [...config.nodes.values()].map(
        node => `${config.ssh.listen}:${node.managePort} for ${node.name}`
      )
      log.info({ version: BERTH_VERSION, pid: process.pid, listening, stateDir: config.stateDir }, 'ready')
      await notifySystemd(log)
      log.info({ signal: await stopping }, 'stopping')
      const deadline = setTimeout(() => {
        log.warn({ waitedMs: SHUTDOWN_MS }, 'stopped without waiting any longer')
        process.exit(0)
      }, SHUTDOWN_MS)
      await socket.close()
      await app.close()
      clearTimeout(deadline)
      log.info('stopped')
    } catch (error) {
      await app.close()
      throw error
    }
    lock.release()
  }
})

/** Resolves with the first signal that asks to end; a second one ends at once. */
function stopSignal(log: Log): Promise<NodeJS.Signals> {
  process.on('unhandledRejection', error => log.error({ err: error }, 'unhandled rejection'))
  // After an uncaught exception nothing is known any more (nodejs.org/api/process.html): systemd starts it again within a second.
  process.on('uncaughtException', error => {
    log.fatal({ err: error }, 'uncaught exception')
    process.exit(70)
  })
  return new Promise(resolve => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.once(signal, () => {
        resolve(signal)
        process.once(signal, () => process.exit(130))
      })
    }
  })
}

/** sd_notify(3) READY=1 where systemd waits for it. Node has no datagram sockets of the unix kind, systemd brings a tool. */
async function notifySystemd(log: Log): Promise<void> {
  if (!isReadinessAwaited()) return
  try {
    await promisify(execFile)('systemd-notify', ['--ready', `--status=berth ${BERTH_VERSION} serves`])
  } catch (error) {
    log.warn({ err: error }, 'systemd was not told')
  }
}
