import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdtemp, readFile, readdir, readlink, rm } from 'node:fs/promises'
import { Agent, request } from 'undici'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import { listProcesses } from './cgroups.ts'
import { downLab, upLab } from './lab.ts'
import { run, tryRun } from './run.ts'
import { trustNewClient } from './trust-client.ts'

const name = `wipe-${process.pid}`
const labsDir = '/var/lib/berth-lab'
const directory = join(labsDir, name)
const program = join(import.meta.dirname, 'main.ts')

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false
  )
}

async function linesOf(command: string, ...args: string[]): Promise<string[]> {
  return (await run(command, ...args)).split('\n')
}

/** Everything on the machine that carries the lab's name, and its link, which carries its number. */
async function findTraces(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter(entry => /^\d+$/.test(entry) && Number(entry) !== process.pid)
  const processes = pids.map(async pid => {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    // Without words: a zombie, whose parent was killed, and which process 1 of the machine has not yet collected.
    return command === '' ? '' : `${pid} ${command} ${await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')}`
  })
  const named = [
    ...(await linesOf('cat', '/proc/self/mounts')),
    ...(await linesOf('ip', 'netns')),
    ...(await linesOf('losetup', '--list', '--noheadings', '--output', 'BACK-FILE')),
    ...((await tryRun('find', '/sys/fs/cgroup', '-name', `*${name}*`)) ?? '').split('\n'),
    ...(await Promise.all(processes)),
    ...(await readdir(labsDir))
  ].filter(line => line.includes(name))
  return [...named, ...(await linesOf('ip', '-brief', 'link')).filter(line => line.startsWith(`berthlab${index}l`))]
}

let index = ''

/** Takes the lab down and gives what is left of it. */
async function takeDown(): Promise<string[]> {
  index = await readFile(join(directory, 'index'), 'utf8')
  expect((await findTraces()).length).toBeGreaterThan(1)
  await downLab(name)
  return await findTraces()
}

/** Starts `up` as a program of its own and kills it as soon as `isDue`. */
async function killUpWhen(isDue: () => Promise<boolean>, cacheDir?: string): Promise<void> {
  const up = spawn(process.execPath, [program, 'up', '--name', name], {
    stdio: 'ignore',
    env: { ...process.env, ...(cacheDir !== undefined && { BERTH_LAB_CACHE: cacheDir }) }
  })
  const ended = once(up, 'exit')
  while (!(await isDue()) && up.exitCode === null) await sleep(5)
  up.kill('SIGKILL')
  expect(await ended).toEqual([null, 'SIGKILL'])
}

describe('a lab', () => {
  afterAll(() => downLab(name))

  test('leaves nothing on the machine, with a container running in it', async () => {
    const rulesBefore = await linesOf('nft', 'list', 'ruleset')
    const lab = await upLab({ name })
    const lxc = (...args: string[]) => run('env', `LXD_DIR=${lab.lxdDir}`, `LXD_CONF=${directory}/lxc`, 'lxc', ...args)
    await lxc('network', 'create', 'br0', 'ipv6.address=none', 'ipv4.address=10.77.0.1/24')
    await lxc('launch', 'debian-12', 'c1', '--network', 'br0')
    expect(JSON.parse(await lxc('list', '--format', 'json'))).toMatchObject([{ name: 'c1', status: 'Running' }])
    const netns = await readlink(`/proc/${lab.place.initPid}/ns/net`)
    await expect.poll(async () => (await listProcesses(lab.place.name)).length, { timeout: 10_000 }).toBeGreaterThan(10)
    expect(await takeDown()).toEqual([])
    expect(await linesOf('nft', 'list', 'ruleset')).toEqual(rulesBefore)
    const pids = await readdir('/proc')
    expect(await Promise.all(pids.map(pid => readlink(`/proc/${pid}/ns/net`).catch(() => '')))).not.toContain(netns)
  })

  test.each([
    ['its network namespace is there', () => exists(`/run/netns/berth-lab-${name}-lxd`)],
    ['its daemon starts', () => exists(`${directory}/lxd/daemon.log`)],
    ['its server answers', () => exists(`${directory}/lxd/state/unix.socket`)],
    ['its pool is made', () => exists(`${directory}/lxd/state/disks/default.img`)],
    ['its image is imported', async () => (await readdir(`${directory}/lxd/state/images`).catch(() => [])).length > 0]
  ])('killed when %s is taken down whole', async (_moment, isDue) => {
    await killUpWhen(isDue)
    expect(await takeDown()).toEqual([])
  })

  test('killed half-way comes up again', async () => {
    await killUpWhen(() => exists(`${directory}/lxd/state/unix.socket`))
    const lab = await upLab({ name })
    expect(lab.images).toEqual({ 'debian-12': 'debian-12' })
    expect(await takeDown()).toEqual([])
  })

  test('killed while it builds an image leaves no process and no mount', async () => {
    const cacheDir = await mkdtemp('/var/tmp/berth-lab-cache-')
    const partial = join(cacheDir, '.image-debian-12-partial')
    const isUnpacking = async () => {
      const [work] = await readdir(partial).catch(() => [])
      return work !== undefined && (await exists(join(partial, work, 'tree/usr/bin/dpkg')))
    }
    try {
      await killUpWhen(isUnpacking, cacheDir)
      await sleep(1000)
      const commands = await Promise.all(
        (await readdir('/proc')).map(pid => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''))
      )
      expect(commands.filter(command => command.includes(cacheDir))).toEqual([])
      expect(await readFile('/proc/self/mounts', 'utf8')).not.toContain(cacheDir)
    } finally {
      await rm(cacheDir, { recursive: true })
      await downLab(name)
    }
  })

  test('takes a new client over HTTPS, and tells one it does not trust apart', async () => {
    const lab = await upLab({ name, images: [] })
    const { cert, key, serverCertificate } = await trustNewClient(lab)
    const ask = async (identity: { cert?: string; key?: string }) => {
      const pinned = { ca: serverCertificate, checkServerIdentity: () => undefined, ...identity }
      await using dispatcher = Object.assign(new Agent({ connect: pinned }), {
        async [Symbol.asyncDispose]() {
          await dispatcher.destroy()
        }
      })
      const { body } = await request(`https://${lab.httpsAddress}/1.0`, { dispatcher })
      return await body.json()
    }
    expect(await ask({ cert, key })).toMatchObject({ metadata: { auth: 'trusted' } })
    expect(await ask({})).toMatchObject({ metadata: { auth: 'untrusted' } })
    await downLab(name)
  })
})
