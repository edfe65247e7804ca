import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { cachedImage, type ImageFiles } from './images.ts'
import { installPackages } from './packages.ts'
import { closePlace, findProcess, isOpen, openPlace, startDaemon, type OpenPlace, type Place } from './place.ts'
import { connectRest, importImage, waitForServer } from './rest.ts'
import { takeLock } from './run.ts'

/** One running server, LXD or Incus, in namespaces of its own. */
export interface LabServer {
  kind: 'lxd' | 'incus'
  /** The server's unix socket; reachable by this path from the whole machine. */
  lxdSocket: string
  /** LXD_DIR (or INCUS_DIR) of the daemon. */
  lxdDir: string
  pool: string
  /** The machine's address on the link to the server: where clients come from, and "the outside" for containers. */
  hostAddress: string
  /** The server's own address, where forwards listen. */
  nodeAddress: string
  httpsAddress: string
  /** Recipe name → alias of the image in the server's default project. */
  images: Record<string, string>
  /** Network namespace, as `ip netns` knows it. */
  netns: string
  /** Put before a command line, runs it in the server's network namespace. */
  enter: string[]
  /** Put before a command line, runs it in all of the server's namespaces: its mounts and processes are seen as it sees them. */
  enterAll: string[]
  place: OpenPlace
}

export interface Lab extends LabServer {
  name: string
  directory: string
  incus?: LabServer
}

export interface LabOptions {
  name?: string
  /** Bring up Incus beside LXD. */
  incus?: boolean
  /** Recipes of templates/images to have as images. */
  images?: string[]
  poolDriver?: 'btrfs' | 'dir'
  cacheDir?: string
  /** One line for each step. */
  say?: (line: string) => void
}

const labsDir = '/var/lib/berth-lab'
export const defaultCacheDir = '/var/cache/berth-lab'
const labName = /^[a-z][a-z0-9-]{0,19}$/
const pool = 'default'

/** Brings up the lab called `name`, or gives the facts of the one that runs. What a killed run left is taken down first. */
export async function upLab(options: LabOptions = {}): Promise<Lab> {
  const { name = 'default', images = ['debian-12'], poolDriver = 'btrfs', cacheDir = defaultCacheDir } = options
  const step = timeSteps(options.say ?? (() => {}))
  checkName(name)
  await step('packages', installPackages)
  await mkdir(labsDir, { recursive: true })
  await using _lock = await takeLock(join(labsDir, `${name}.lock`))
  const running = await readLab(name)
  const lab = (await isRunning(running)) ? running : undefined
  if (lab === undefined) await removeLab(name)
  const files = new Map<string, ImageFiles>()
  for (const image of images)
    files.set(image, await step(`image ${image}`, () => cachedImage(cacheDir, image, options.say ?? (() => {}))))
  const server = lab ?? (await step('LXD', () => startLxd(name, poolDriver)))
  await step('import', () => importMissing(server, files))
  const up: Lab = { ...server, name, directory: join(labsDir, name) }
  await writeWhole(join(labsDir, name, 'lab.json'), JSON.stringify(up))
  return up
}

/** Takes the lab down with all it made, whatever state it is in. */
export async function downLab(name = 'default'): Promise<void> {
  checkName(name)
  await mkdir(labsDir, { recursive: true })
  {
    await using _lock = await takeLock(join(labsDir, `${name}.lock`))
    await removeLab(name)
  }
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

async function isRunning(lab: Lab | undefined): Promise<boolean> {
  return lab !== undefined && (await isOpen(lab.place)) && (await findProcess(lab.place.name, lxdCommand)) !== undefined
}

async function removeLab(name: string): Promise<void> {
  await using _machine = await takeLock(join(labsDir, 'machine.lock'))
  const directory = join(labsDir, name)
  const index = await readIndex(name)
  if (index !== undefined) await closePlace(describePlace(name, 'lxd', index))
  await rm(directory, { recursive: true, force: true })
}

async function readIndex(name: string): Promise<number | undefined> {
  const text = await readFile(join(labsDir, name, 'index'), 'utf8').catch(() => '')
  return text === '' ? undefined : Number(text)
}

/** Takes the lowest number no other lab has; the lab's addresses follow from it. */
async function reserveIndex(name: string): Promise<number> {
  await using _machine = await takeLock(join(labsDir, 'machine.lock'))
  const taken = new Set<number | undefined>()
  for (const other of await readdir(labsDir)) taken.add(await readIndex(other))
  let index = 0
  while (taken.has(index)) index++
  if (index > 255) throw new Error('there are 256 labs on this machine already')
  await mkdir(join(labsDir, name), { recursive: true })
  await writeWhole(join(labsDir, name, 'index'), String(index))
  return index
}

async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text)
  await rename(`${path}.new`, path)
}

/** 198.18.0.0/15 is set aside for tests between networks (RFC 2544): a /30 for each server. */
function describePlace(name: string, kind: LabServer['kind'], index: number): Place {
  const first = kind === 'lxd' ? 0 : 4
  return {
    name: `berth-lab-${name}-${kind}`,
    link: `berthlab${index}${kind === 'lxd' ? '' : 'i'}`,
    hostAddress: `198.18.${index}.${first + 1}`,
    nodeAddress: `198.18.${index}.${first + 2}`,
    directory: join(labsDir, name, kind)
  }
}

const lxdCommand = ['lxd', '--group', 'root']

async function startLxd(name: string, poolDriver: string): Promise<LabServer> {
  const place = describePlace(name, 'lxd', await reserveIndex(name))
  const lxdDir = join(place.directory, 'state')
  await mkdir(lxdDir, { recursive: true })
  const open = await openPlace(place)
  await startDaemon(open, lxdCommand, { LXD_DIR: lxdDir })
  return await configureServer('lxd', open, lxdDir, poolDriver)
}

async function configureServer(
  kind: LabServer['kind'],
  place: OpenPlace,
  stateDir: string,
  poolDriver: string
): Promise<LabServer> {
  const lxdSocket = join(stateDir, 'unix.socket')
  const httpsAddress = `${place.nodeAddress}:8443`
  const rest = connectRest(lxdSocket)
  try {
    await waitForServer(rest, () => true)
    await rest.call('PATCH', '/1.0', { config: { 'core.https_address': httpsAddress } })
    const config = poolDriver === 'btrfs' ? { size: '12GiB' } : {}
    await rest.call('POST', '/1.0/storage-pools', { name: pool, driver: poolDriver, config })
    await rest.call('PATCH', '/1.0/profiles/default', { devices: { root: { type: 'disk', path: '/', pool } } })
  } finally {
    await rest.close()
  }
  return {
    kind,
    lxdSocket,
    lxdDir: stateDir,
    pool,
    hostAddress: place.hostAddress,
    nodeAddress: place.nodeAddress,
    httpsAddress,
    images: {},
    netns: place.name,
    enter: ['ip', 'netns', 'exec', place.name],
    enterAll: ['nsenter', `--target=${place.initPid}`, '--mount', '--net', '--pid', '--cgroup', '--root', '--wd', '--'],
    place
  }
}

async function importMissing(server: LabServer, files: Map<string, ImageFiles>): Promise<void> {
  const rest = connectRest(server.lxdSocket)
  try {
    for (const [name, { metadataPath, rootfsPath }] of files) {
      if (name in server.images) continue
      await importImage(rest, name, metadataPath, rootfsPath)
      server.images[name] = name
    }
  } finally {
    await rest.close()
  }
}

function timeSteps(say: (line: string) => void) {
  return async <Result>(what: string, work: () => Promise<Result>): Promise<Result> => {
    const startMs = performance.now()
    const result = await work()
    say(`${what}: ${((performance.now() - startMs) / 1000).toFixed(1)} s`)
    return result
  }
}
