import { existsSync, mkdirSync } from 'node:fs'
import { UserError } from '../errors.ts'
import { defineCommand } from './admin-command.ts'
import type { Console } from './console.ts'
import { DemoFailure, play } from './demo/play.ts'
import { clearStage, setStage, STAGE_DIRECTORY, type Stage, tailServeLog } from './demo/stage.ts'
import { lockState } from './state-lock.ts'

const LOCK_DIRECTORY = '/run/lock/berth-demo'

export const demo = defineCommand({
  command: 'demo',
  describe: 'show the main job on a private LXD of its own, on a bare machine',
  epilogue: `Needs root on Debian 12 or later, and nothing else: it installs the packages it lacks, brings up an LXD in namespaces of
its own, serves, and types what an admin and a member would type. Nothing of it touches an LXD that is there already, or
your ~/.ssh. It is gone afterwards, unless you --keep it.`,
  builder: yargs =>
    yargs
      .option('keep', { type: 'boolean', default: false, describe: 'leave everything running, to try it yourself' })
      .option('down', { type: 'boolean', default: false, describe: 'end a demo that was kept' })
      .option('json', {
        type: 'boolean',
        default: false,
        describe: 'end with one line of JSON that says where all is'
      }),
  async handler({ keep, down, json }, { console }) {
    if (down && (keep || json)) throw new UserError('usage', '--down stands alone.')
    if (process.getuid?.() !== 0) {
      throw new UserError('not-allowed', 'The demo brings up a real LXD, which takes root.', {
        hint: 'sudo bin/berth demo'
      })
    }
    mkdirSync(LOCK_DIRECTORY, { recursive: true, mode: 0o700 })
    const lock = lockState(LOCK_DIRECTORY)
    if (lock === undefined)
      throw new UserError('locked-state', 'Another demo is at work.', { hint: 'Wait until it ends.' })
    try {
      const kept = existsSync(STAGE_DIRECTORY)
      if (kept && !down) console.out('Ending the demo that was left…')
      if (kept || down) await clearStage()
      if (down) return console.out(kept ? 'The demo has ended, and nothing of it is left.' : 'There was no demo.')
      return await perform(console, keep, json)
    } finally {
      lock.release()
    }
  }
})

async function perform(console: Console, keep: boolean, json: boolean): Promise<number> {
  const interrupted = new AbortController()
  const interrupt = () => interrupted.abort()
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, interrupt)
  const startedAtMs = Date.now()
  let stage: Stage | undefined
  let exitCode = 0
  try {
    console.out('Setting up a private LXD with a small Debian (some minutes the first time)…')
    stage = await setStage(interrupted.signal)
    const count = await play(stage, console, interrupted.signal)
    const seconds = Math.round((Date.now() - startedAtMs) / 1000)
    console.out(`\n${console.colors.green('✓')} All ${count} lines did what they should, ${seconds} s in all.`)
  } catch (error) {
    exitCode = interrupted.signal.aborted ? 130 : 1
    if (interrupted.signal.aborted) console.err('\nInterrupted.')
    else console.err(`\n${console.colors.red('✗')} ${error instanceof Error ? error.message : String(error)}`)
    if (error instanceof DemoFailure) console.err(`\nThe log of berth serve ends with:\n${tailServeLog()}`)
  }
  if (keep && stage && exitCode !== 130) tellWhatRuns(console, stage)
  else {
    console.out('Taking everything down…')
    await clearStage()
  }
  for (const signal of signals) process.off(signal, interrupt)
  if (json && stage) console.out(JSON.stringify(stage))
  return exitCode
}

function tellWhatRuns(console: Console, { config, sshConfig, node }: Stage): void {
  console.out(`
It all runs on. Try, as root on this machine:

  ssh -F ${sshConfig} ${node}-manage help
  ssh -F ${sshConfig} ${node}
  bin/berth user list --config ${config}

End it with: bin/berth demo --down`)
}
