import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import { downLab } from './lab.ts'
import { run, tryRun } from './run.ts'

export const labsDir = '/var/lib/berth-lab'

export async function linesOf(command: string, ...args: string[]): Promise<string[]> {
  return (await run(command, ...args)).split('\n')
}

/** Everything on the machine that carries the lab's name, and its link, which carries its number. */
async function findTraces(name: string, index: string): Promise<string[]> {
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

/** Takes the lab down and gives what is left of it. */
export async function takeDown(name: string): Promise<string[]> {
  const index = await readFile(join(labsDir, name, 'index'), 'utf8')
  expect((await findTraces(name, index)).length).toBeGreaterThan(1)
  await downLab(name)
  return await findTraces(name, index)
}
