import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { z } from 'zod'
import { BERTH_ROOT } from '../version.ts'
import { runProgram } from './run-program.ts'

/** Everything of the demo is in here; the lab beside it is called `demo`. */
export const STAGE_DIRECTORY = '/var/lib/berth-demo'
const LAB_PROGRAM = join(BERTH_ROOT, 'test/lab/main.ts')
const BERTH_PROGRAM = join(BERTH_ROOT, 'src/main.ts')
const IMAGE = 'debian-12'
const READY_TIMEOUT_MS = 60_000

const labSchema = z.object({
  lxdSocket: z.string(),
  hostAddress: z.string(),
  nodeAddress: z.string(),
  pool: z.string()
})

/** Where the play takes place; also what `--json` prints. */
export interface Stage {
  readonly config: string
  readonly sshConfig: string
  readonly identityFile: string
  readonly user: string
  readonly node: string
  readonly managePort: number
  readonly fixedPort: number
  readonly lxdSocket: string
  /** Of `berth serve`. */
  readonly pid: number
}

const within = (name: string): string => join(STAGE_DIRECTORY, name)
const PATHS = { config: within('berth.yaml'), log: within('serve.log'), pid: within('serve.pid') }

/** `berth …` of this checkout with the demo's configuration. */
export const berthArgv = (...words: string[]): string[] => [
  process.execPath,
  BERTH_PROGRAM,
  ...words,
  '--config',
  PATHS.config
]

/** Brings up the lab (packages, LXD, image: minutes the first time) and `berth serve`. Throws with the reason where it cannot. */
export async function setStage(signal: AbortSignal): Promise<Stage> {
  const lab = await runProgram([process.execPath, LAB_PROGRAM, 'up', '--name', 'demo', '--images', IMAGE, '--json'], {
    signal,
    showStderr: true
  })
  if (lab.code !== 0) throw new Error('The private LXD did not come up; what it said is above.')
  const { lxdSocket, hostAddress, nodeAddress, pool } = labSchema.parse(JSON.parse(lab.stdout))
  const [node, managePort, fixedPort] = ['gpu1', 2222, 22000]
  mkdirSync(STAGE_DIRECTORY, { recursive: true, mode: 0o700 })
  const settings = {
    stateDir: within('state'),
    ports: { from: fixedPort, to: fixedPort + 9 },
    ssh: { listen: hostAddress },
    web: { listen: 'off' },
    nodes: {
      [node]: {
        address: nodeAddress,
        managePort,
        manageAddress: hostAddress,
        lxd: `unix://${lxdSocket}`,
        storagePool: pool,
        limits: { cpu: 1, memory: '1GiB', processes: 1000, disk: '4GiB' }
      }
    },
    templates: [{ name: IMAGE, image: IMAGE, description: 'Debian 12, small' }]
  }
  writeFileSync(PATHS.config, stringify(settings))
  const pid = await startServe(signal)
  return {
    config: PATHS.config,
    sshConfig: within('ssh_config'),
    identityFile: within('id_ed25519'),
    user: 'alice',
    node,
    managePort,
    fixedPort,
    lxdSocket,
    pid
  }
}

async function startServe(signal: AbortSignal): Promise<number> {
  const log = openSync(PATHS.log, 'w', 0o600)
  const [program = '', ...words] = berthArgv('serve')
  // A session of its own: it must outlive `demo --keep`, and Ctrl-C must reach the demo first.
  const child = spawn(program, words, { detached: true, stdio: ['ignore', log, log] })
  closeSync(log)
  writeFileSync(PATHS.pid, String(child.pid))
  await ready(child, signal)
  child.unref()
  return child.pid as number
}

async function ready(child: ChildProcess, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS
  while (!readFileSync(PATHS.log, 'utf8').includes('"msg":"ready"')) {
    if (child.exitCode !== null || child.signalCode !== null) {
      throw new Error(`berth serve ended at once:\n${readFileSync(PATHS.log, 'utf8').trimEnd()}`)
    }
    if (Date.now() > deadline) throw new Error(`berth serve was not ready after ${READY_TIMEOUT_MS / 1000} s.`)
    await sleep(50, undefined, { signal })
  }
}

/** The last lines of the daemon's log, to show with a failure. */
export function tailServeLog(): string {
  return readFileSync(PATHS.log, 'utf8').trimEnd().split('\n').slice(-10).join('\n')
}

/** Ends the daemon and the lab and deletes every trace, whatever state the demo was left in. */
export async function clearStage(): Promise<void> {
  const pid = servePid()
  if (pid !== undefined) await endProcess(pid)
  const down = await runProgram([process.execPath, LAB_PROGRAM, 'down', '--name', 'demo'], { showStderr: true })
  if (down.code !== 0) throw new Error('The private LXD could not be taken down; what it said is above.')
  rmSync(STAGE_DIRECTORY, { recursive: true, force: true })
}

/** The daemon a demo left running; undefined when the number on file is nobody or somebody else by now. */
function servePid(): number | undefined {
  try {
    const pid = Number(readFileSync(PATHS.pid, 'utf8'))
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(PATHS.config) ? pid : undefined
  } catch {
    return undefined
  }
}

async function endProcess(pid: number): Promise<void> {
  process.kill(pid, 'SIGTERM')
  const deadline = Date.now() + 30_000
  while (servePid() === pid) {
    if (Date.now() > deadline) process.kill(pid, 'SIGKILL')
    await sleep(50)
  }
}
