import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import { downLab, upLab } from './lab.ts'
import { labsDir, takeDown } from './traces.ts'

const name = `kill-${process.pid}`
const directory = join(labsDir, name)
const program = join(import.meta.dirname, 'main.ts')

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false
  )
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

  test.each([
    ['its network namespace is there', () => exists(`/run/netns/berth-lab-${name}-lxd`)],
    ['its daemon starts', () => exists(`${directory}/lxd/daemon.log`)],
    ['its server answers', () => exists(`${directory}/lxd/state/unix.socket`)],
    ['its pool is made', () => exists(`${directory}/lxd/state/disks/default.img`)],
    ['its image is imported', async () => (await readdir(`${directory}/lxd/state/images`).catch(() => [])).length > 0]
  ])('killed when %s is taken down whole', async (_moment, isDue) => {
    await killUpWhen(isDue)
    expect(await takeDown(name)).toEqual([])
  })

  test('killed half-way comes up again', async () => {
    await killUpWhen(() => exists(`${directory}/lxd/state/unix.socket`))
    const lab = await upLab({ name })
    expect(lab.images).toEqual({ 'debian-12': 'debian-12' })
    expect(await takeDown(name)).toEqual([])
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
})
