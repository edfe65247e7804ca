import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { ClientChannel } from 'ssh2'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startEndpoint, type Endpoint } from './endpoint.ts'

const MIB = 1024 * 1024
let endpoint: Endpoint

beforeAll(async () => {
  endpoint = await startEndpoint({ users: { alice: ['alice'], bob: ['bob'] } })
})
afterAll(() => endpoint[Symbol.asyncDispose]())

test('the same answer with and without a terminal, with -T, -tt and -n', async () => {
  const plain = { stdout: 'hello alice as member from 127.0.0.1 0\nterminal none\n', stderr: '', exitCode: 0 }
  expect(await endpoint.ssh([])).toEqual(plain)
  expect(await endpoint.ssh([], { options: ['-T'] })).toEqual(plain)
  expect(await endpoint.ssh(['start'], { options: ['-n'] })).toEqual(plain)
  const { stdout, exitCode } = await endpoint.ssh([], { options: ['-tt'], environment: { TERM: 'xterm' } })
  expect(exitCode).toBe(0)
  expect(stdout).toBe('hello alice as member from 127.0.0.1 0\r\nterminal xterm 80x24\r\n')
})

test('a real terminal of the client is known with its size and gets colours', async () => {
  const line = ['ssh', ...endpoint.options('alice'), '-t', '-p', String(endpoint.port), 'alice@127.0.0.1', 'start']
  const { stdout } = await endpoint.run('script', ['-qec', `stty rows 33 cols 99; ${line.join(' ')}`, '/dev/null'], {
    environment: { TERM: 'xterm-256color' }
  })
  expect(stdout).toContain('terminal xterm-256color 99x33')
})

test('each node has its port, and the same host key', async () => {
  const first = await endpoint.run('ssh-keyscan', ['-p', String(endpoint.ports['gpu1']), '127.0.0.1'])
  const second = await endpoint.run('ssh-keyscan', ['-p', String(endpoint.ports['gpu2']), '127.0.0.1'])
  const key = (output: string) => output.trim().split(' ').slice(1).join(' ')
  expect(key(first.stdout)).toMatch(/^ssh-ed25519 AAAA/)
  expect(key(first.stdout)).not.toContain('\n')
  expect(key(second.stdout)).toBe(key(first.stdout))
})

test('exit codes arrive as they are', async () => {
  for (const code of [0, 1, 64, 77, 130, 255]) expect((await endpoint.ssh(['exit', String(code)])).exitCode).toBe(code)
  expect((await endpoint.ssh(['fail'])).exitCode).toBe(70)
})

test('8 MiB on both streams at once: the last byte and the exit code arrive', async () => {
  for (const options of [[], ['-o', 'Ciphers=aes128-ctr'], ['-o', 'RekeyLimit=1M']]) {
    const { stdout, stderr, exitCode } = await endpoint.ssh(['flood', String(8 * MIB), String(8 * MIB), '3'], {
      options
    })
    expect([stdout.length, stdout.slice(-7)]).toEqual([8 * MIB, 'OUT-END'])
    expect([stderr.length, stderr.slice(-7)]).toEqual([8 * MIB, 'ERR-END'])
    expect(exitCode).toBe(3)
  }
})

test('8 MiB on standard error alone', async () => {
  const { stdout, stderr, exitCode } = await endpoint.ssh(['flood', '0', String(8 * MIB), '0'])
  expect([stdout, stderr.length, stderr.slice(-7), exitCode]).toEqual(['', 8 * MIB, 'ERR-END', 0])
})

test('standard input is read to its end, whatever its size, also while keys are exchanged', async () => {
  const input = Buffer.alloc(20 * MIB, 'i')
  expect((await endpoint.ssh(['count'], { input })).stdout).toBe(`read ${20 * MIB}\n`)
  expect((await endpoint.ssh(['count'], { input, options: ['-o', 'RekeyLimit=1M'] })).stdout).toBe(`read ${20 * MIB}\n`)
  expect((await endpoint.ssh(['echo'], { input: 'a\0b\n' })).stdout).toBe('got "a\\u0000b\\n"\n')
})

test('a command that reads no input ends all the same when there is a lot of it', async () => {
  const { exitCode, stdout } = await endpoint.ssh(['say', 'out', 'done'], { input: Buffer.alloc(20 * MIB) })
  expect([stdout, exitCode]).toEqual(['done\n', 0])
})

test('ten sessions at once through one ControlMaster connection, each with its own output and exit code', async () => {
  const socket = join(endpoint.directory, 'master')
  const master = endpoint.startSsh(['-N'], ['-o', 'ControlMaster=yes', '-o', `ControlPath=${socket}`])
  const through = (...words: string[]) =>
    endpoint.ssh(words, { options: ['-o', `ControlPath=${socket}`, '-o', 'ControlMaster=no'] })
  while ((await through('-O', 'check')).exitCode !== 0) await new Promise(resolve => setTimeout(resolve, 20))
  const outcomes = await Promise.all(
    Array.from({ length: 10 }, (_, index) =>
      through('flood', String(MIB + index), String(index === 0 ? 0 : MIB), String(index))
    )
  )
  for (const [index, { stdout, exitCode }] of outcomes.entries()) {
    expect([stdout.length, stdout.slice(-7), exitCode]).toEqual([MIB + index, 'OUT-END', index])
  }
  master.child.kill()
})

test('text from outside cannot steer a terminal; our own colours appear with a terminal only', async () => {
  expect((await endpoint.ssh(['paint'])).stdout).toBe('red [2Jevil bidi ]0;titleend\n')
  expect((await endpoint.ssh(['paint'], { options: ['-tt'], environment: { TERM: 'xterm' } })).stdout).toBe(
    '\u001B[31mred\u001B[39m [2Jevil bidi ]0;titleend\r\n'
  )
  expect((await endpoint.ssh(['paint'], { options: ['-tt'], environment: { TERM: 'dumb' } })).stdout).toBe(
    'red [2Jevil bidi ]0;titleend\r\n'
  )
})

test('progress is a live line with a terminal and plain lines on standard error without', async () => {
  const plain = await endpoint.ssh(['progress'])
  expect(plain.stdout).toBe('between\n')
  expect(plain.stderr.split('\n')).toEqual([
    'copying: step one 0 %',
    'copying: step one 50 %',
    'copying: step one 100 %',
    'copying: step two',
    'copying: done',
    ''
  ])
  const live = await endpoint.ssh(['progress'], { options: ['-tt'], environment: { TERM: 'xterm' } })
  expect(live.stdout).toContain('\r\u001B[2K[##########..........]  50 % copying: step one')
  expect(live.stdout).toMatch(/\r\u001B\[2Kbetween\r\n/)
  expect(live.stdout).toMatch(/\r\u001B\[2Kcopying: done\r\n$/)
})

test('^C in a terminal ends an ordinary command with 130, and what has begun goes on', async () => {
  const { child, outcome } = endpoint.startSsh(['wait', '1500'], ['-tt'])
  await endpoint.event('waiting')
  child.stdin.write('\u0003')
  const started = Date.now()
  expect(await outcome).toEqual({ stdout: '^C\r\n', stderr: '', exitCode: 130 })
  expect(Date.now() - started).toBeLessThan(1000)
  await endpoint.event('waited')
})

test('in a terminal a command reads edited lines, with echo, until ^D', async () => {
  const { child, outcome } = endpoint.startSsh(['echo'], ['-tt'])
  child.stdin.write('wrong\u0015onf\u007Fe\rtwä\u007F\u007Fwo\r\u0004')
  const { stdout, exitCode } = await outcome
  expect(stdout).toContain('onf\b \be\r\n')
  expect(stdout).toContain('got "one\\ntwo\\n"\r\n')
  expect(exitCode).toBe(0)
})

test('a raw terminal hands every byte through', async () => {
  const { child, outcome } = endpoint.startSsh(['raw'], ['-tt'])
  await new Promise(resolve => setTimeout(resolve, 300))
  child.stdin.write('\u0003\u0004\r\u001B[Aq')
  const { stdout, exitCode } = await outcome
  expect(stdout.replaceAll('><', '')).toBe('<03040d1b5b4171>')
  expect(exitCode).toBe(0)
})

test('a changed window and a signal reach the command; a signal nobody awaits ends it', async () => {
  await using own = await startEndpoint()
  const client = await own.rawClient()
  const run = (words: string, pty: boolean) =>
    new Promise<ClientChannel>((resolve, reject) =>
      client.exec(words, { pty }, (error, channel) => (error ? reject(error) : resolve(channel)))
    )
  const resized = await run('resize', true)
  await own.event('waiting')
  resized.setWindow(40, 120, 0, 0)
  expect(await text(resized)).toBe('120x40\r\n')
  const signalled = await run('signal', false)
  signalled.signal('USR1')
  expect(await text(signalled)).toBe('signal USR1\n')
  const ended = await run('wait 60000', false)
  ended.signal('TERM')
  const [code] = (await once(ended, 'exit')) as [number]
  expect(code).toBe(143)
  client.end()
})

test('a client that goes away is noticed, and what it began goes on', async () => {
  await using own = await startEndpoint()
  const { child } = own.startSsh(['wait', '1000'])
  await own.event('waiting')
  child.kill('SIGKILL')
  await own.event('gone')
  expect(own.sawEvent('waited')).toBe(false)
  await own.event('waited')
  await own.stillServes()
})

test('endUser hangs up on that user alone, and the client is told', async () => {
  await using own = await startEndpoint({ users: { alice: ['alice'], bob: ['bob'] } })
  const alice = own.startSsh(['wait', '60000'])
  await own.event('waiting')
  const bob = own.ssh(['wait', '1500'], { login: 'bob', key: 'bob' })
  await own.ask({ do: 'end-user', name: 'alice' })
  expect((await alice.outcome).stderr).toContain('this account was disabled or removed')
  expect((await bob).stdout).toBe('waited\n')
})

test('close stops listening and hangs up', async () => {
  await using own = await startEndpoint()
  const alice = own.startSsh(['wait', '60000'])
  await own.event('waiting')
  own.process.send({ do: 'close' })
  expect((await alice.outcome).stderr).toContain('berth is stopping')
  expect((await own.ssh([])).exitCode).toBe(255)
})
