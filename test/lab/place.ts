import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { open, readFile, readdir, readlink, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createCgroups, listProcesses, removeCgroups, type Hierarchy } from './cgroups.ts'
import { run, toolEnvironment, tryRun } from './run.ts'

/** Where one server lives, apart from the machine: names and addresses that nothing else there has. */
export interface Place {
  /** Of the network namespace and of the cgroups. */
  name: string
  /** The machine's end of the veth pair. */
  link: string
  hostAddress: string
  nodeAddress: string
  /** On the machine's own file system: the server's state, its socket, its logs. */
  directory: string
}

/** An open place, enough to start programs in it. */
export interface OpenPlace extends Place {
  /** Process 1 of the place, as the machine numbers it. */
  initPid: number
  hierarchies: Hierarchy[]
  /** Put before a command line, runs it in all namespaces of the place. */
  enter: string[]
}

const joinThenRun = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'

/**
 * Makes the namespaces (net, mount, pid, cgroup), the veth pair and the cgroups. With `tree` the place has that root file system,
 * to be changed as it likes, and the place's `state` directory is there as `stateInTree`.
 */
export async function openPlace(place: Place, tree = '', stateInTree = ''): Promise<OpenPlace> {
  const { name, link, hostAddress, nodeAddress, directory } = place
  await run('ip', 'netns', 'add', name)
  await run('ip', 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'uplink', 'netns', name)
  await run('ip', 'address', 'add', `${hostAddress}/30`, 'dev', link)
  await run('ip', 'link', 'set', link, 'up')
  await run('ip', '-n', name, 'address', 'add', `${nodeAddress}/30`, 'dev', 'uplink')
  await run('ip', '-n', name, 'link', 'set', 'uplink', 'up')
  await run('ip', '-n', name, 'link', 'set', 'lo', 'up')
  await run('ip', '-n', name, 'route', 'add', 'default', 'via', hostAddress)
  const hierarchies = await createCgroups(name)
  const namespaces = [
    '--mount',
    '--propagation',
    'private',
    '--pid',
    '--fork',
    '--kill-child',
    '--mount-proc',
    '--cgroup'
  ]
  const init = [
    'sh',
    join(import.meta.dirname, 'inside.sh'),
    directory,
    tree,
    stateInTree,
    ...hierarchies.map(describeHierarchy)
  ]
  const log = await open(join(directory, 'init.log'), 'a')
  const outer = spawn(
    'sh',
    ['-c', joinThenRun, 'sh', ...hierarchies.map(hierarchy => hierarchy.directory), '--'].concat([
      'nsenter',
      `--net=/run/netns/${name}`,
      'unshare',
      ...namespaces,
      ...init
    ]),
    { detached: true, stdio: ['ignore', 'pipe', log.fd], env: toolEnvironment, cwd: '/' }
  )
  const ready = await Promise.race([
    once(outer.stdout!, 'data').then(() => true),
    once(outer, 'exit').then(() => false)
  ])
  await log.close()
  if (!ready)
    throw new Error(`the namespaces could not be set up:\n${await readFile(join(directory, 'init.log'), 'utf8')}`)
  outer.stdout!.destroy()
  outer.unref()
  for (const { type, directory } of hierarchies) {
    // Version 2 hands controllers on only from cgroups without processes: unshare, still waiting outside, must go down as well.
    if (type === 'cgroup2') await writeFile(join(directory, 'init.scope/cgroup.procs'), String(outer.pid))
  }
  const children = await readFile(`/proc/${outer.pid}/task/${outer.pid}/children`, 'utf8')
  const initPid = Number(children.trim())
  const enter = ['nsenter', `--target=${initPid}`, '--mount', '--net', '--pid', '--cgroup', '--root', '--wd', '--']
  return { ...place, hierarchies, initPid, enter }
}

function describeHierarchy({ type, options, mountPoint }: Hierarchy): string {
  return `${type}:${options}:${mountPoint}`
}

/** Starts a daemon in the place, which outlives this process; its output goes to `daemon.log`. */
export async function startDaemon(
  place: OpenPlace,
  command: string[],
  environment: Record<string, string>
): Promise<void> {
  const directories = place.hierarchies.map(({ type, directory }) =>
    type === 'cgroup2' ? join(directory, 'init.scope') : directory
  )
  const log = await open(join(place.directory, 'daemon.log'), 'a')
  const daemon = spawn('sh', ['-c', joinThenRun, 'sh', ...directories, '--', ...place.enter, ...command], {
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    env: { ...toolEnvironment, ...environment },
    cwd: '/'
  })
  await once(daemon, 'spawn')
  await log.close()
  daemon.unref()
}

/** The process in the place that was started with just these words, if it runs. */
export async function findProcess(name: string, command: string[]): Promise<number | undefined> {
  const words = command.map(word => `${word}\0`).join('')
  for (const entry of await readdir('/proc')) {
    if ((await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')) !== words) continue
    if (await isIn(name, Number(entry))) return Number(entry)
  }
  return undefined
}

/** Whether the process is in a cgroup of that name or below. Of all there are, listing them takes a second in a busy lab. */
async function isIn(name: string, pid: number): Promise<boolean> {
  const cgroups = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')
  return cgroups.split(/[/\n]/).includes(name)
}

/** Ends everything in the place and takes it away. Works on what a half-finished or killed openPlace left, and on nothing at all. */
export async function closePlace({ name, link, directory }: Pick<Place, 'name' | 'link' | 'directory'>): Promise<void> {
  const deadlineMs = Date.now() + 20_000
  for (;;) {
    const pids = await listProcesses(name)
    for (const pid of pids) killProcess(pid)
    if (pids.length === 0 && (await removeCgroups(name))) break
    if (Date.now() > deadlineMs) throw new Error(`still there after SIGKILL in ${name}: ${pids.join(' ')}`)
    await sleep(50)
  }
  await tryRun('ip', 'link', 'delete', link)
  await tryRun('ip', 'netns', 'delete', name)
  // ip mounted it with the first namespace; busy, and thus left, while there is another.
  await tryRun('umount', '/run/netns')
  await detachLoops(directory, deadlineMs)
}

function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * Loop devices free themselves when their file system goes; those that do not (the server died before its mount) are detached.
 * Known by the file's number: Incus, with a root of its own, has another path for it.
 */
async function detachLoops(directory: string, deadlineMs: number): Promise<void> {
  const disks = join(directory, 'state/disks')
  const files = await Promise.all((await readdir(disks).catch(() => [])).map(file => stat(join(disks, file))))
  const numbers = files.map(({ ino }) => String(ino))
  for (;;) {
    const loops = (await run('losetup', '--list', '--noheadings', '--raw', '--output', 'NAME,BACK-INO')).split('\n')
    const ours = loops.map(line => line.split(' ')).filter(([, number]) => numbers.includes(number ?? ''))
    if (ours.length === 0) return
    for (const [device] of ours) await tryRun('losetup', '--detach', device!)
    if (Date.now() > deadlineMs) throw new Error(`loop devices still busy: ${ours.map(([device]) => device).join(' ')}`)
    await sleep(50)
  }
}

/** Whether process 1 of the place lives and is still that place's (process numbers are used again). */
export async function isOpen({ name, initPid }: Pick<OpenPlace, 'name' | 'initPid'>): Promise<boolean> {
  return (await isIn(name, initPid)) && (await readlink(`/proc/${initPid}/ns/pid`).catch(() => undefined)) !== undefined
}
