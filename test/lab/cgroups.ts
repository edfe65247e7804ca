import { mkdir, readFile, readdir, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ELSEWHERE, UnfitMachine } from './unfit-machine.ts'

export interface Hierarchy {
  type: 'cgroup' | 'cgroup2'
  /** Mount options that name a version 1 hierarchy; empty for version 2. */
  options: string
  mountPoint: string
  /** The lab's own directory in it. */
  directory: string
}

/** What of /proc/mounts is a cgroup hierarchy. */
export async function listCgroupMounts(): Promise<(Pick<Hierarchy, 'type' | 'mountPoint'> & { options: string })[]> {
  const lines = (await readFile('/proc/mounts', 'utf8')).split('\n').map(line => line.split(' '))
  return lines.flatMap(([, mountPoint = '', type, options = '']) =>
    type === 'cgroup' || type === 'cgroup2' ? [{ mountPoint, type, options }] : []
  )
}

/**
 * A directory `name` in every cgroup hierarchy of the machine (cgroups(7)): below this process's own in version 1, at the root in
 * version 2, where a cgroup that has processes cannot hand controllers on.
 */
export async function createCgroups(name: string): Promise<Hierarchy[]> {
  const own = new Map<string, string>()
  for (const line of (await readFile('/proc/self/cgroup', 'utf8')).trim().split('\n')) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line)
    if (match !== null) own.set(match[1]!, match[2]!)
  }
  const hierarchies: Hierarchy[] = []
  for (const { mountPoint, type, options } of await listCgroupMounts()) {
    const words = options
      .split(',')
      .filter(word => !/^(rw|relatime|no.*|xattr|memory_.*|release_agent=.*|clone_children)$/.test(word))
    const parent = type === 'cgroup' ? (own.get(words.join(',')) ?? '/') : '/'
    const directory = join(mountPoint, parent, name)
    await mkdir(directory, { recursive: true })
    if (type === 'cgroup2') await handOnControllers(mountPoint)
    if (words.includes('cpuset')) await copyCpuset(join(mountPoint, parent), directory)
    const named = words.some(word => word.startsWith('name='))
    hierarchies.push({
      type,
      options: type === 'cgroup2' ? '' : named ? `none,${words.join(',')}` : words.join(','),
      mountPoint,
      directory
    })
  }
  return hierarchies
}

/** Version 2 gives a directory only the controllers its parent hands on; systemd does not hand on cpuset unasked (limits.cpu needs it). */
async function handOnControllers(mountPoint: string): Promise<void> {
  const available = (await readFile(join(mountPoint, 'cgroup.controllers'), 'utf8')).trim().split(' ')
  for (const controller of ['cpu', 'cpuset', 'io', 'memory', 'pids']) {
    if (!available.includes(controller)) continue
    await writeFile(join(mountPoint, 'cgroup.subtree_control'), `+${controller}`).catch((error: Error) => {
      throw new UnfitMachine(
        `The controller ${controller} of the cgroups is not to be had (${error.message}): ${ELSEWHERE}.`
      )
    })
  }
}

/** A new version 1 cpuset is empty and takes no process (cpuset(7)). */
async function copyCpuset(parent: string, directory: string): Promise<void> {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    await writeFile(join(directory, file), await readFile(join(parent, file), 'utf8'))
  }
  await writeFile(join(directory, 'cgroup.clone_children'), '1')
}

/** The directories called `name` in all hierarchies, whoever made them and whenever; what is in other labs' is left aside. */
async function findCgroups(name: string, directory = '/sys/fs/cgroup'): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => [])
  const found = entries.map(async entry => {
    if (!entry.isDirectory()) return []
    if (entry.name === name) return [join(directory, name)]
    return entry.name.startsWith('berth-lab-') ? [] : await findCgroups(name, join(directory, entry.name))
  })
  return (await Promise.all(found)).flat()
}

async function listTree(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => [])
  const below = await Promise.all(
    entries.filter(entry => entry.isDirectory()).map(entry => listTree(join(directory, entry.name)))
  )
  return [...below.flat(), directory]
}

/** Every process in the cgroups called `name` or below, in any hierarchy: exactly what a lab started, and its containers. */
export async function listProcesses(name: string): Promise<number[]> {
  const pids = new Set<number>()
  for (const root of await findCgroups(name)) {
    for (const directory of await listTree(root)) {
      const text = await readFile(join(directory, 'cgroup.procs'), 'utf8').catch(() => '')
      for (const pid of text.split('\n')) if (pid !== '') pids.add(Number(pid))
    }
  }
  return [...pids]
}

/** Removes the cgroups called `name` with all below; false while something in them is still busy. */
export async function removeCgroups(name: string): Promise<boolean> {
  for (const root of await findCgroups(name)) {
    for (const directory of await listTree(root)) await rmdir(directory).catch(() => {})
  }
  return (await findCgroups(name)).length === 0
}
