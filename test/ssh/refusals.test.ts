import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { text } from 'node:stream/consumers'
import type { ClientChannel } from 'ssh2'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { freePort } from '../free-port.ts'
import { startEndpoint, type Endpoint } from './endpoint.ts'

let endpoint: Endpoint

beforeAll(async () => {
  endpoint = await startEndpoint()
})
// Nothing refused here may harm the next member.
afterEach(() => endpoint.stillServes())
afterAll(() => endpoint[Symbol.asyncDispose]())

const place = () => ['-P', String(endpoint.port)]

test('sftp and scp, the old and the new way, are told where files go', async () => {
  const file = endpoint.keyFile('alice.pub')
  const runs = [
    endpoint.run('sftp', [...endpoint.options('alice'), ...place(), 'alice@127.0.0.1']),
    endpoint.run('scp', [...endpoint.options('alice'), ...place(), file, 'alice@127.0.0.1:']),
    endpoint.run('scp', [...endpoint.options('alice'), ...place(), '-O', file, 'alice@127.0.0.1:']),
    endpoint.run('scp', [...endpoint.options('alice'), ...place(), '-O', 'alice@127.0.0.1:x', '/tmp/never'])
  ]
  for (const { stderr, exitCode } of await Promise.all(runs)) {
    expect(stderr).toContain('gpu1-manage takes commands, not files.')
    expect(stderr).toContain('Files go to the container: scp FILE gpu1:')
    expect(exitCode).not.toBe(0)
  }
})

test('an unknown subsystem is refused by name', async () => {
  const { stderr, exitCode } = await endpoint.ssh(['netconf'], { options: ['-s'] })
  expect(stderr).toContain('There is no subsystem "netconf" here.')
  expect(exitCode).toBe(64)
})

test('X11 and agent forwarding are not given, and the command runs', async () => {
  const { stdout, stderr, exitCode } = await endpoint.ssh(['say', 'out', 'ran'], {
    options: ['-A', '-X', '-o', 'ForwardX11Trusted=yes', '-v'],
    environment: { DISPLAY: ':99', XAUTHORITY: '/dev/null' }
  })
  expect([stdout, exitCode]).toEqual(['ran\n', 0])
  expect(stderr).not.toContain('internal')
  const client = await endpoint.rawClient()
  const refused = await new Promise<Error | undefined>(resolve =>
    client.exec('wait 100', { x11: true }, error => resolve(error))
  )
  expect(refused?.message).toContain('X11')
  client.end()
})

test('local, dynamic, remote and standard-input forwarding are refused with a reason', async () => {
  const stdio = await endpoint.ssh([], { options: ['-W', '127.0.0.1:1', '-o', 'LogLevel=INFO'] })
  expect(stdio.stderr).toContain('administratively prohibited: forwarding is not for this host: use the container')
  expect(stdio.exitCode).toBe(255)
  const remote = await endpoint.ssh(['say', 'out', 'x'], {
    options: ['-R', '0:127.0.0.1:1', '-o', 'ExitOnForwardFailure=yes', '-o', 'LogLevel=INFO']
  })
  expect(remote.stderr).toContain('remote port forwarding failed')
  const client = await endpoint.rawClient({ strictVendor: false })
  const refusal = (open: (done: (error?: Error) => void) => void) => new Promise<Error | undefined>(open)
  for (const error of [
    await refusal(done => client.forwardOut('127.0.0.1', 1, '127.0.0.1', 22, done)),
    await refusal(done => client.openssh_forwardOutStreamLocal('/var/lib/lxd/unix.socket', done))
  ]) {
    expect(error?.message).toContain('forwarding is not for this host: use the container')
  }
  const inward = await refusal(done =>
    client.openssh_forwardInStreamLocal('/tmp/never.sock', error => done(error ?? undefined))
  )
  expect(inward?.message).toContain('Unable to bind')
  client.end()
})

test('-L and -D lead nowhere, and the client says why', async () => {
  for (const option of ['-L', '-D']) {
    const port = await freePort()
    const place = option === '-L' ? `127.0.0.1:${port}:127.0.0.1:${endpoint.port}` : `127.0.0.1:${port}`
    const { child, outcome } = endpoint.startSsh(['-N'], [option, place, '-o', 'LogLevel=INFO'])
    const reason = new Promise<void>(resolve =>
      child.stderr.on('data', chunk => /open failed/.test(String(chunk)) && resolve())
    )
    const socket = await Promise.race([dial(port), outcome.then(({ stderr }) => Promise.reject(new Error(stderr)))])
    const received: Buffer[] = []
    socket.on('data', chunk => received.push(chunk))
    // SOCKS 5, no authentication, connect to the endpoint itself, which would greet.
    if (option === '-D')
      socket.write(Buffer.from(`050100050100017f000001${endpoint.port.toString(16).padStart(4, '0')}`, 'hex'))
    await reason
    child.kill()
    expect((await outcome).stderr).toContain(
      'open failed: administratively prohibited: forwarding is not for this host'
    )
    expect(Buffer.concat(received).toString('latin1')).not.toContain('SSH-')
  }
})

test('shell features, odd bytes and long lines are refused in words, and nothing runs', async () => {
  const cases: [string, string][] = [
    ['say out a; id', 'There is no shell here for its ";".'],
    ['say out a && id', 'for its "&"'],
    ['say out a | cat', 'for its "|"'],
    ['say out a > /tmp/x', 'for its ">"'],
    ['say out $(id)', 'for its "$"'],
    ['say out "$(id)"', 'for its "$"'],
    ['say out `id`', 'for its "`"'],
    ['say out a\nid', 'It has more than one line.'],
    ['say out \u0007', 'unprintable character U+0007'],
    ['say out \u202Eabc', 'unprintable character U+202E'],
    ["say out 'a", 'A quote is not closed.'],
    ['say out a\\', 'It ends in a backslash.'],
    [`say out ${'x'.repeat(4097)}`, '4096 is the most']
  ]
  for (const [line, reason] of cases) {
    const { stdout, stderr, exitCode } = await endpoint.ssh([line])
    expect(stderr, line).toContain('That command line is refused.')
    expect(stderr, line).toContain(reason)
    expect([stdout, exitCode], line).toEqual(['', 64])
  }
})

test('bytes that are not UTF-8 are refused', async () => {
  const line = `ssh ${endpoint.options('alice').join(' ')} -p ${endpoint.port} alice@127.0.0.1 "say out $(printf '\\377\\376')"`
  const { stdout, stderr, exitCode } = await endpoint.run('bash', ['-c', line])
  expect(stderr).toContain('It is not valid UTF-8.')
  expect([stdout, exitCode]).toEqual(['', 64])
})

test('a command of exactly 4 KiB runs', async () => {
  const word = 'x'.repeat(4096 - 'say out '.length)
  expect((await endpoint.ssh([`say out ${word}`])).stdout).toBe(`${word}\n`)
})

test('1 MiB of command: the client is told why it was hung up on', async () => {
  const { stdout, stderr, exitCode } = await endpoint.ssh(Array<string>(11).fill('x'.repeat(100_000)))
  expect(stderr).toContain('a command line may have 4096 bytes at most')
  expect([stdout, exitCode]).toEqual(['', 255])
})

test('of a hundred sessions at once sixteen are served and the others refused with the reason', async () => {
  const client = await endpoint.rawClient()
  const outcomes = await Promise.all(
    Array.from(
      { length: 100 },
      (_, index) =>
        new Promise<string>(resolve =>
          client.exec(`say out ${index}`, (error, channel) => resolve(error ? error.message : text(channel)))
        )
    )
  )
  const refused = outcomes.filter(outcome => outcome.includes('one connection may have 16 sessions'))
  expect(outcomes.filter(outcome => /^\d+\n$/.test(outcome))).toHaveLength(100 - refused.length)
  expect(refused.length).toBeGreaterThanOrEqual(1)
  // The same connection serves on once its sessions have ended.
  const after = await new Promise<ClientChannel>((resolve, reject) =>
    client.exec('say out after', (error, channel) => (error ? reject(error) : resolve(channel)))
  )
  expect(await text(after)).toBe('after\n')
  client.end()
})

async function dial(port: number): Promise<Socket> {
  for (;;) {
    const socket = connect(port, '127.0.0.1')
    try {
      await once(socket, 'connect')
      socket.on('error', () => {})
      return socket
    } catch {
      await sleep(50)
    }
  }
}
