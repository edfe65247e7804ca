import { PassThrough, Readable, Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { apiPath } from '../../src/lxd/api-path.ts'
import { exec, execCaptured, type ExecOptions } from '../../src/lxd/exec.ts'
import { createInstance, setInstanceState } from '../../src/lxd/instances.ts'
import { IMAGE, openProject, WAYS, type TestProject } from './servers.ts'
import { later } from '../suite.ts'

/** Takes everything and keeps it as text. */
function collector(): { stream: Writable; text(): string } {
  const chunks: Buffer[] = []
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk)
      done()
    }
  })
  return { stream, text: () => Buffer.concat(chunks).toString() }
}

describe.each(WAYS)('$kind over $over', way => {
  let project: TestProject
  beforeAll(async () => {
    project = await openProject(way)
    await createInstance(project.lxd, { name: 'box', source: { type: 'image', alias: IMAGE } })
    await setInstanceState(project.lxd, 'box', 'start')
  })
  afterAll(() => project[Symbol.asyncDispose]())

  const run = (script: string, options: Partial<Parameters<typeof execCaptured>[2]> = {}) =>
    execCaptured(project.lxd, 'box', { command: ['sh', '-c', script], ...options })
  const isRunning = async (pattern: string) =>
    (await run(`pgrep -f '[${pattern[0]}]${pattern.slice(1)}'`)).exitCode === 0

  test('both outputs and the exit code come back', async () => {
    expect(await run('echo out; echo err >&2; exit 7')).toEqual({ exitCode: 7, stdout: 'out\n', stderr: 'err\n' })
  })

  test('words reach the program as they are', async () => {
    const words = ['a b', '', '$(id)', "'", 'é\n', '--']
    const { stdout } = await execCaptured(project.lxd, 'box', { command: ['printf', '[%s]', ...words] })
    expect(stdout).toBe(words.map(word => `[${word}]`).join(''))
  })

  test('user, group, directory and environment are set', async () => {
    const options = { user: 65534, group: 65534, cwd: '/tmp', environment: { COLOUR: 'green' } }
    expect((await run('id -u; id -g; pwd; echo $COLOUR', options)).stdout).toBe('65534\n65534\n/tmp\ngreen\n')
  })

  test('a program that cannot be found or run gives 127 or 126 and says so', async () => {
    const missing = await execCaptured(project.lxd, 'box', { command: ['/nonexistent'] })
    expect(missing).toMatchObject({ exitCode: 127, stderr: expect.stringContaining('/nonexistent: ') })
    expect(await execCaptured(project.lxd, 'box', { command: ['/etc/passwd'] })).toMatchObject({ exitCode: 126 })
  })

  test('a program killed by a signal gives 128 and its number', async () => {
    expect((await run('kill -9 $$')).exitCode).toBe(137)
    expect((await run('kill -15 $$')).exitCode).toBe(143)
  })

  test('input reaches its end, and none is empty', async () => {
    const bytes = Buffer.alloc(3_000_000, 'x')
    const stdin = Readable.from([bytes.subarray(0, 1), bytes.subarray(1)])
    expect((await run('wc -c', { stdin })).stdout).toBe('3000000\n')
    expect((await run('wc -c')).stdout).toBe('0\n')
  })

  test('the last of much output has come when the call resolves', async () => {
    const { stdout, stderr } = await run('head -c 5000000 /dev/zero | tr "\\\\0" o; printf end >&2', {
      maxBytes: 6_000_000
    })
    expect(stdout).toHaveLength(5_000_000)
    expect(stderr).toBe('end')
  })

  test('a program that ends at once loses none of its output', async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => run('echo out; echo err >&2')))
    expect(all.filter(({ stdout, stderr }) => stdout !== 'out\n' || stderr !== 'err\n')).toEqual([])
  })

  test('a program that ends before its input is read leaves the input alone', async () => {
    const stdin = new PassThrough()
    stdin.write('unread')
    expect((await run('exit 3', { stdin })).exitCode).toBe(3)
    expect(stdin.destroyed).toBe(false)
  })

  test('an input that breaks off is an end of input', async () => {
    const [stdin, out] = [new PassThrough(), collector()]
    const running = later(exec(project.lxd, 'box', { command: ['cat'], stdin, stdout: out.stream, timeoutMs: 20_000 }))
    stdin.write('half')
    await expect.poll(out.text).toBe('half')
    stdin.destroy()
    expect(await running).toEqual({ exitCode: 0 })
  })

  test('a slow reader stops the program, not our memory', async () => {
    let takenBytes = 0
    const stuck = new Writable({ highWaterMark: 65_536, write: chunk => void (takenBytes += chunk.length) })
    const leaving = new AbortController()
    const running = later(
      exec(project.lxd, 'box', { command: ['cat', '/dev/zero'], stdout: stuck, signal: leaving.signal })
    )
    await expect.poll(() => takenBytes).toBeGreaterThan(0)
    await sleep(500)
    const heldBytes = takenBytes + stuck.writableLength
    await sleep(500)
    expect(heldBytes).toBeLessThan(1e6)
    expect(takenBytes + stuck.writableLength).toBe(heldBytes)
    leaving.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
  })

  test('a program that does not read stops the input, not our memory', async () => {
    const stdin = new PassThrough()
    const leaving = new AbortController()
    const running = later(run('sleep 311', { stdin, signal: leaving.signal }))
    let fedBytes = 0
    const feeding = setInterval(() => {
      while (!stdin.writableNeedDrain && fedBytes < 64e6) fedBytes += stdin.write(Buffer.alloc(65_536)) ? 65_536 : 0
    }, 5)
    await sleep(1000)
    clearInterval(feeding)
    expect(fedBytes).toBeLessThan(32e6)
    leaving.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
  })

  test('aborting kills a program that ignores hangup, and its reason comes back', async () => {
    const leaving = new AbortController()
    const reason = new Error('gone')
    const running = later(run('trap "" HUP INT TERM; exec sleep 312', { signal: leaving.signal }))
    await expect.poll(() => isRunning('sleep 312')).toBe(true)
    leaving.abort(reason)
    await expect(running).rejects.toBe(reason)
    await expect.poll(() => isRunning('sleep 312')).toBe(false)
  })

  test('a time limit kills too', async () => {
    const running = run('exec sleep 313', { timeoutMs: 700 })
    await expect(running).rejects.toMatchObject({ fault: 'timed-out', status: 0 })
    await expect.poll(() => isRunning('sleep 313')).toBe(false)
  })

  test('more output than allowed kills the program', async () => {
    const running = later(execCaptured(project.lxd, 'box', { command: ['yes', 'flood-314'], maxBytes: 100_000 }))
    await expect(running).rejects.toMatchObject({ fault: 'too-much' })
    await expect.poll(() => isRunning('yes flood-314')).toBe(false)
  })

  test('an output that breaks kills the program', async () => {
    const broken = new PassThrough()
    const running = later(exec(project.lxd, 'box', { command: ['sleep', '315'], stdout: broken }))
    await expect.poll(() => isRunning('sleep 315')).toBe(true)
    broken.destroy(new Error('the pipe broke'))
    await expect(running).rejects.toThrow('the pipe broke')
    await expect.poll(() => isRunning('sleep 315')).toBe(false)
  })

  test('a signal is passed on, an unknown one is not', async () => {
    let send = (_name: string) => {}
    const out = collector()
    const running = later(
      exec(project.lxd, 'box', {
        command: ['sh', '-c', 'trap "echo caught; exit 9" USR1; echo ready; while :; do sleep 0.1; done'],
        stdout: out.stream,
        onSignal: listener => void (send = listener)
      })
    )
    await expect.poll(out.text).toBe('ready\n')
    send('NOSUCH')
    send('USR1')
    expect(await running).toEqual({ exitCode: 9 })
    expect(out.text()).toBe('ready\ncaught\n')
  })

  test('a terminal is real: its size, its resizing, its end of file', async () => {
    let resize = (_columns: number, _rows: number) => {}
    const out = collector()
    const stdin = new PassThrough()
    const running = later(
      exec(project.lxd, 'box', {
        command: ['sh', '-c', 'trap "stty size" WINCH; tty; stty size; cat; exit 5'],
        terminal: { columns: 101, rows: 31, onResize: listener => void (resize = listener) },
        stdin,
        stdout: out.stream,
        timeoutMs: 20_000
      })
    )
    await expect.poll(out.text).toMatch(/^\/dev\/pts\/\d+\r\n31 101\r\n$/)
    resize(77, 11)
    stdin.write('echoed\n')
    // The shell tells its new size between its programs: before cat has begun, or after it.
    await expect.poll(out.text).toMatch(/echoed\r\n(11 77\r\n)?echoed\r\n/)
    stdin.end()
    expect(await running).toEqual({ exitCode: 5 })
    expect(out.text()).toContain('11 77')
  })

  const onTerminal = (script: string, options: Partial<ExecOptions> = {}) =>
    exec(project.lxd, 'box', {
      command: ['sh', '-c', script],
      terminal: { columns: 80, rows: 24, onResize: () => {} },
      stdin: new PassThrough(),
      timeoutMs: 20_000,
      ...options
    })

  test('the last of the output on a terminal has come when the call resolves', async () => {
    const runs = Array.from({ length: 20 }, async (_, index) => {
      const out = collector()
      const { exitCode } = await onTerminal(`seq 2000; printf last; exit ${index}`, { stdout: out.stream })
      return [exitCode, out.text().length, out.text().slice(-6)]
    })
    const seqBytes = 8893 + 2000
    expect(await Promise.all(runs)).toEqual(runs.map((_, index) => [index, seqBytes + 4, '\r\nlast']))
    await expect.poll(() => isRunning('sleep 60')).toBe(false)
  })

  test('what a program writes on a terminal comes through whatever it is', async () => {
    const out = collector()
    await onTerminal('stty raw; printf "\\036"; sleep 0.2; printf "berth-\\036\\036berth-0:1\\036\\001"', {
      stdout: out.stream
    })
    expect(out.text()).toBe('\x1eberth-\x1e\x1eberth-0:1\x1e\x01')
  })

  test('a flood of signals on a terminal is no flood of programs', async () => {
    const operations = z.record(z.string(), z.array(z.string()))
    const listRunning = async () => (await project.lxd.get(apiPath`/1.0/operations`, operations))['running'] ?? []
    // LXD may still keep one of a test before this one.
    const before = await listRunning()
    const [out, leaving] = [collector(), new AbortController()]
    let send = (_name: string) => {}
    const script = 'trap "echo used" USR1; echo ready; while :; do sleep 0.1; done'
    const onSignal = (listener: (name: string) => void) => void (send = listener)
    const running = later(onTerminal(script, { stdout: out.stream, onSignal, signal: leaving.signal }))
    await expect.poll(out.text).toBe('ready\r\n')
    for (let index = 0; index < 50; index++) send('USR1')
    await expect.poll(out.text).toContain('used')
    const begun = (await listRunning()).filter(operation => !before.includes(operation))
    expect(begun.length).toBeLessThanOrEqual(2)
    leaving.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
  })

  test('the interrupt key and signals reach the program on a terminal', async () => {
    const [stdin, out] = [new PassThrough(), collector()]
    let send = (_name: string) => {}
    const script = 'trap "echo interrupted" INT; trap "echo used; exit 4" USR1; echo ready; while :; do sleep 0.1; done'
    const onSignal = (listener: (name: string) => void) => void (send = listener)
    const running = later(onTerminal(script, { stdin, stdout: out.stream, onSignal }))
    await expect.poll(out.text).toBe('ready\r\n')
    stdin.write('\x03')
    await expect.poll(out.text).toContain('interrupted')
    send('USR1')
    expect(await running).toEqual({ exitCode: 4 })
    expect(out.text()).toMatch(/used\r\n$/)
    expect(await onTerminal('kill -9 $$')).toEqual({ exitCode: 137 })
  })

  test('leaving a terminal kills what ran in it, and what that started', async () => {
    const leaving = new AbortController()
    const running = later(onTerminal('trap "" HUP INT TERM; sleep 316; sleep 317', { signal: leaving.signal }))
    await expect.poll(() => isRunning('sleep 316')).toBe(true)
    leaving.abort(new Error('gone'))
    await expect(running).rejects.toThrow('gone')
    await expect.poll(() => isRunning('sleep 31[67]')).toBe(false)
  })

  test('many at once do not mix', async () => {
    const all = await Promise.all(
      Array.from({ length: 10 }, (_, index) => run(`cat; exit ${index}`, { stdin: Readable.from([`${index}`]) }))
    )
    expect(all.map(({ exitCode, stdout }) => `${exitCode}${stdout}`)).toEqual(all.map((_, index) => `${index}${index}`))
  })

  test('a container that stops ends the call, and a stopped one refuses it', async () => {
    const running = later(run('exec sleep 317'))
    await expect.poll(() => isRunning('sleep 317')).toBe(true)
    await setInstanceState(project.lxd, 'box', 'stop', { force: true })
    expect((await running).exitCode).toBe(137)
    await expect(run('true')).rejects.toMatchObject({ fault: 'refused', status: 400 })
  })
})
