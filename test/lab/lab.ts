import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { cachedImage, cachedIncusTree, type ImageFiles } from './images.ts'
import { checkMachine } from './machine.ts'
import { installPackages } from './packages.ts'
import { closePlace, isOpen, type Place } from './place.ts'
import { run, takeLock } from './run.ts'
import { createServer, findDaemon, importImages, type LabServer, startServer, type ServerKind } from './server.ts'

/** A lab is its first server, and Incus beside it where both were asked for. */
export interface Lab extends LabServer {
  name: string
  directory: string
  incus?: LabServer
}

export interface LabOptions {
  name?: string
  /** In this order; the first is the lab's own. */
  servers?: ServerKind[]
  /** Recipes of templates/images to have as images. */
  images?: string[]
  poolDriver?: 'btrfs' | 'dir'
  /** Images and trees are kept here between runs. */
  cacheDir?: string
  /** One line for each step. */
  say?: (line: string) => void
}

const labsDir = '/var/lib/berth-lab'
const labName = /^[a-z][a-z0-9-]{0,19}$/
const kinds = ['lxd', 'incus'] as const

/** Brings up the lab called `name`, or gives the facts of the one that runs. What a killed run left is taken down first. */
export async function upLab(options: LabOptions = {}): Promise<Lab> {
  const { name = 'default', servers = ['lxd'], images = ['debian-12'], poolDriver = 'btrfs' } = options
  const { cacheDir = '/var/cache/berth-lab', say = () => {} } = options
  checkName(name)
  await checkMachine()
  const timed = timeSteps(say)
  await timed('packages', () => installPackages(say))
  await mkdir(labsDir, { recursive: true })
  await using _lock = await takeLock(join(labsDir, `${name}.lock`))
  const files = new Map<string, ImageFiles>()
  const builds = images.map(image => async () => {
    files.set(image, await timed(`image ${image}`, () => cachedImage(cacheDir, image, say)))
  })
  let tree: string | undefined
  if (servers.includes('incus')) {
    builds.push(async () => {
      tree = await timed('Incus tree', () => cachedIncusTree(cacheDir, say))
    })
  }
  await runTwoAtATime(builds)
  const running = await readRunning(name)
  if (running.length === 0) await timed('clearing', () => removeLab(name))
  const index = await reserveIndex(name)
  const up = await Promise.all(
    servers.map(async kind => {
      const server =
        running.find(other => other.kind === kind) ??
        (await timed(kind, () =>
          createServer(kind, describePlace(name, kind, index), poolDriver, kind === 'incus' ? tree : undefined)
        ))
      await timed(`${kind} images`, () => importImages(server, files))
      return server
    })
  )
  const all = [...up, ...running.filter(server => !servers.includes(server.kind))]
  const lab: Lab = { ...all[0]!, name, directory: join(labsDir, name), ...(all[1] && { incus: all[1] }) }
  await writeWhole(join(labsDir, name, 'lab.json'), JSON.stringify(lab))
  return lab
}

/** Takes the lab down with all it made, whatever state it is in. */
export async function downLab(name = 'default'): Promise<void> {
  checkName(name)
  await mkdir(labsDir, { recursive: true })
  const lockFile = join(labsDir, `${name}.lock`)
  await using _lock = await takeLock(lockFile)
  await removeLab(name)
  await rm(lockFile)
}

export async function listLabs(): Promise<Lab[]> {
  const names = await readdir(labsDir).catch(() => [])
  const labs = await Promise.all(names.filter(entry => labName.test(entry)).map(readLab))
  return labs.filter(lab => lab !== undefined)
}

function checkName(name: string): void {
  if (!labName.test(name))
    throw new Error(`not a lab's name: ${JSON.stringify(name)} (a letter, then up to 19 of a-z 0-9 -)`)
}

async function readLab(name: string): Promise<Lab | undefined> {
  const text = await readFile(join(labsDir, name, 'lab.json'), 'utf8').catch(() => undefined)
  return text === undefined ? undefined : (JSON.parse(text) as Lab)
}

/** The servers of the lab, a daemon that has ended started anew; none where one's place is gone: then the lab must be made anew. */
async function readRunning(name: string): Promise<LabServer[]> {
  const lab = await readLab(name)
  const servers = lab === undefined ? [] : lab.incus === undefined ? [lab] : [lab, lab.incus]
  for (const { place } of servers) if (!(await isOpen(place))) return []
  for (const server of servers) if ((await findDaemon(server)) === undefined) await startServer(server)
  return servers
}

async function removeLab(name: string): Promise<void> {
  const index = await readIndex(name)
  if (index !== undefined) for (const kind of kinds) await closePlace(describePlace(name, kind, index))
  await using _machine = await takeLock(join(labsDir, 'machine.lock'))
  await rm(join(labsDir, name), { recursive: true, force: true })
}

async function readIndex(name: string): Promise<number | undefined> {
  const text = await readFile(join(labsDir, name, 'index'), 'utf8').catch(() => '')
  return text === '' ? undefined : Number(text)
}

/** The lab's number, else the lowest that no other lab has; its addresses follow from it. */
async function reserveIndex(name: string): Promise<number> {
  await using _machine = await takeLock(join(labsDir, 'machine.lock'))
  const own = await readIndex(name)
  if (own !== undefined) return own
  const taken = new Set<number | undefined>()
  for (const other of await readdir(labsDir)) taken.add(await readIndex(other))
  // A lab of a container that shares this network namespace is not in labsDir.
  for (const match of (await run('ip', '-oneline', 'link')).matchAll(/ berthlab(\d+)/g)) taken.add(Number(match[1]))
  let index = 0
  while (taken.has(index)) index++
  if (index > 255) throw new Error('there are 256 labs on this machine already')
  await mkdir(join(labsDir, name), { recursive: true })
  await writeWhole(join(labsDir, name, 'index'), String(index))
  return index
}

/** 198.18.0.0/15 is set aside for tests between networks (RFC 2544): a /30 for each server. */
function describePlace(name: string, kind: ServerKind, index: number): Place {
  const first = 4 * kinds.indexOf(kind)
  return {
    name: `berth-lab-${name}-${kind}`,
    link: `berthlab${index}${kind[0]}`,
    hostAddress: `198.18.${index}.${first + 1}`,
    nodeAddress: `198.18.${index}.${first + 2}`,
    directory: join(labsDir, name, kind)
  }
}

async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text)
  await rename(`${path}.new`, path)
}

async function runTwoAtATime(work: (() => Promise<void>)[]): Promise<void> {
  const rest = [...work]
  const takeNext = async () => {
    for (let next = rest.shift(); next !== undefined; next = rest.shift()) await next()
  }
  await Promise.all([takeNext(), takeNext()])
}

function timeSteps(say: (line: string) => void) {
  return async <Result>(what: string, work: () => Promise<Result>): Promise<Result> => {
    const startMs = performance.now()
    const result = await work()
    say(`${what}: ${((performance.now() - startMs) / 1000).toFixed(1)} s`)
    return result
  }
}
