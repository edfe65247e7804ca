import { execFile, spawn } from 'node:child_process'
import { stat } from 'node:fs/promises'
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

/**
 * Waits for the exclusive lock on the file `path`, whose holder may delete it. The kernel frees it when this process ends in
 * whatever way: flock(1) reads its pipe.
 */
export async function takeLock(path: string): Promise<Lock> {
  for (;;) {
    const holder = spawn('flock', ['--exclusive', path, 'sh', '-c', 'stat -L -c %i "/proc/$PPID/fd/3"; exec cat'], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: toolEnvironment
    })
    const ended = new Promise<void>((resolve, reject) => {
      holder.on('error', reject)
      holder.on('close', () => resolve())
    })
    const held = new Promise<string>(resolve => holder.stdout.once('data', data => resolve(String(data).trim())))
    const number = await Promise.race([
      held,
      ended.then(() => Promise.reject(new Error(`flock ${path} ended before it held the lock`)))
    ])
    const lock = {
      async [Symbol.asyncDispose]() {
        holder.stdin.end()
        await ended
      }
    }
    // The one before deleted the file while this one waited: others may hold the lock of a new file by that name.
    if ((await stat(path).catch(() => undefined))?.ino === Number(number)) return lock
    await lock[Symbol.asyncDispose]()
  }
}
