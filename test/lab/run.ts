import { execFile, spawn } from 'node:child_process'
import { promisify } from 'node:util'

const execFileAsync = promisify(execFile)

/** What the lab's programs get as environment: nothing of the caller's but the way to the package mirror. */
export const toolEnvironment: NodeJS.ProcessEnv = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LC_ALL: 'C.UTF-8',
  DEBIAN_FRONTEND: 'noninteractive',
  ...(process.env['http_proxy'] === undefined ? {} : { http_proxy: process.env['http_proxy'] })
}

/** Runs a program to its end and gives its standard output; anything but exit 0 throws with what it said. */
export async function run(command: string, ...args: string[]): Promise<string> {
  const ended = execFileAsync(command, args, { env: toolEnvironment, maxBuffer: 64 * 1024 * 1024 })
  ended.child.stdin?.end()
  return (await ended).stdout
}

/** As run, but a failure gives undefined. */
export async function tryRun(command: string, ...args: string[]): Promise<string | undefined> {
  return await run(command, ...args).catch(() => undefined)
}

export interface Lock {
  [Symbol.asyncDispose](): Promise<void>
}

/** Waits for the exclusive lock on `path`. The kernel frees it when this process ends in whatever way: flock(1) reads its pipe. */
export async function takeLock(path: string): Promise<Lock> {
  const holder = spawn('flock', ['--exclusive', path, 'sh', '-c', 'echo held; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: toolEnvironment
  })
  const ended = new Promise<void>((resolve, reject) => {
    holder.on('error', reject)
    holder.on('close', () => resolve())
  })
  await Promise.race([
    new Promise(resolve => holder.stdout.once('data', resolve)),
    ended.then(() => Promise.reject(new Error(`flock ${path} ended before it held the lock`)))
  ])
  return {
    async [Symbol.asyncDispose]() {
      holder.stdin.end()
      await ended
    }
  }
}
