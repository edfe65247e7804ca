import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run, startRig, type Member, type Rig } from '../rig.ts'

let rig: Rig
let alice: Member

beforeAll(async () => {
  rig = await startRig()
})
afterAll(() => rig[Symbol.asyncDispose]())

describe('the main job, in the order a member meets it', () => {
  it('enrols the key just proven with the code of an invite, once', async () => {
    const invited = await rig.berth('invite', 'alice', '--json')
    expect(invited).toMatchObject({ code: 0 })
    const { code } = JSON.parse(invited.stdout) as { code: string }
    const identity = await rig.makeKey('alice')
    const enroll = [...rig.manageArguments('enroll', identity), 'alice', code]
    const first = await run(enroll)
    expect(first).toMatchObject({ code: 0 })
    expect(first.stdout).toContain('config >> ~/.ssh/config')
    expect(first.stdout).toContain('ssh register@gpu1-manage alice')
    const again = await run(enroll)
    expect(again).toMatchObject({ code: 0 })
    expect(again.stdout).toContain('enrolled for alice already')
    const other = await run([...rig.manageArguments('enroll', await rig.makeKey('other')), 'alice', code])
    expect(other).toMatchObject({ code: 77 })
    expect(other.stderr).toMatch(/wrong, used or expired/)
    alice = await rig.member('alice', identity)
  })

  it('says before registering that there is no container, and how to make one', async () => {
    const { code, stderr } = await alice.manage()
    expect(code).toBe(64)
    expect(stderr).toContain('ssh register@gpu1-manage alice')
  })

  it('registers: the container runs and is reachable under the printed name', async () => {
    const registered = await alice.register()
    expect(registered).toMatchObject({ code: 0 })
    expect(registered.stdout).toMatch(/ready/)
    expect(await alice.login('id -un; sudo id -u; hostname')).toMatchObject({
      code: 0,
      stdout: 'alice\n0\nalice\n',
      stderr: ''
    })
  })

  it('registers again without harm', async () => {
    expect(await alice.register()).toMatchObject({ code: 0, stdout: expect.stringMatching(/already/) as string })
  })

  it('shows the status, for people and as JSON', async () => {
    const people = await alice.manage('status')
    expect(people).toMatchObject({ code: 0 })
    expect(people.stdout).toMatch(/state +running, up /)
    expect(people.stdout).toContain('ssh gpu1')
    const { code, stdout } = await alice.manage('status --json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      node: 'gpu1',
      name: 'alice',
      template: 'debian-12',
      state: 'running',
      faults: [],
      memory: { limitBytes: 512 * 2 ** 20, usedBytes: expect.any(Number) as number },
      processes: { limit: 500, used: expect.any(Number) as number },
      disk: { limitBytes: 2 * 2 ** 30 },
      cpu: { limit: 1 }
    })
  })

  it('carries scp, sftp, rsync through the fixed port', async () => {
    const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7919) % 251))
    const file = join(rig.directory, 'bytes')
    writeFileSync(file, bytes)
    expect(await run(['scp', '-q', '-F', alice.sshConfig, file, 'gpu1:one'])).toMatchObject({ code: 0 })
    expect(await run(['scp', '-q', '-F', alice.sshConfig, 'gpu1:one', `${file}.back`])).toMatchObject({ code: 0 })
    expect(readFileSync(`${file}.back`).equals(bytes)).toBe(true)
    expect(
      await run(['sftp', '-q', '-F', alice.sshConfig, '-b', '-', 'gpu1'], { input: `put ${file} two\nls -l two\n` })
    ).toMatchObject({ code: 0 })
    mkdirSync(join(rig.directory, 'tree'))
    writeFileSync(join(rig.directory, 'tree/three'), bytes)
    expect(
      await run(['rsync', '-a', '-e', `ssh -F ${alice.sshConfig}`, join(rig.directory, 'tree'), 'gpu1:'])
    ).toMatchObject({ code: 0 })
    expect(await alice.login('cmp one two && cmp one tree/three && echo same')).toMatchObject({ stdout: 'same\n' })
  })

  it('forwards ports both ways, as a SOCKS proxy, and the agent', async () => {
    const [local, socks] = [await freeLoopbackPort(), await freeLoopbackPort()]
    const client = spawn(
      'ssh',
      ['-F', alice.sshConfig, '-N', '-L', `127.0.0.1:${local}:127.0.0.1:22`, '-D', `127.0.0.1:${socks}`, 'gpu1'],
      { stdio: 'ignore' }
    )
    try {
      const banner = await run([
        'sh',
        '-c',
        `for i in $(seq 50); do nc -w 2 127.0.0.1 ${local} </dev/null | head -c 7 | grep . && exit; sleep 0.1; done`
      ])
      expect(banner.stdout).toContain('SSH-2.0')
      const throughSocks = await run([
        'sh',
        '-c',
        `nc -w 2 -X 5 -x 127.0.0.1:${socks} 127.0.0.1 22 </dev/null | head -c 7`
      ])
      expect(throughSocks.stdout).toBe('SSH-2.0')
    } finally {
      client.kill()
      await once(client, 'exit')
    }
    const agent = await run([
      'ssh-agent',
      'sh',
      '-c',
      `ssh-add -q ${alice.identity} && ssh -F ${alice.sshConfig} -o IdentityAgent=SSH_AUTH_SOCK -A gpu1 ssh-add -l`
    ])
    expect(agent.stdout).toContain('(ED25519)')
  })

  it('leaves an open session alone when the daemon is killed, and manages the same container after it', async () => {
    const session = spawn('ssh', ['-F', alice.sshConfig, 'gpu1', 'echo begun; sleep 6; echo ended'], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const closed = once(session, 'close')
    let output = ''
    session.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
    await once(session.stdout, 'data')
    await rig.end('SIGKILL')
    expect(await alice.login('echo there')).toMatchObject({ stdout: 'there\n' })
    await rig.serve()
    const [code] = (await closed) as [number]
    expect({ code, output }).toEqual({ code: 0, output: 'begun\nended\n' })
    expect(JSON.parse((await alice.manage('status --json')).stdout)).toMatchObject({ state: 'running', name: 'alice' })
  })

  it('shows the status when started while running', async () => {
    for (const words of ['', 'start']) {
      expect(await alice.manage(words)).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/state +running/) as string
      })
    }
  })

  it('restarts', async () => {
    const before = JSON.parse((await alice.manage('status --json')).stdout) as { startedAtMs: number }
    expect(await alice.manage('restart')).toMatchObject({ code: 0 })
    const after = JSON.parse((await alice.manage('status --json')).stdout) as { startedAtMs: number }
    expect(after.startedAtMs).toBeGreaterThan(before.startedAtMs)
    expect(await alice.login('cat one | wc -c')).toMatchObject({ stdout: '300000\n' })
  })

  it('stops, and says so the second time; then the host key is still the known one', async () => {
    expect(await alice.manage('stop')).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^Stopped on gpu1/) as string
    })
    expect(await alice.manage('stop')).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/stopped already/) as string
    })
    expect(JSON.parse((await alice.manage('status --json')).stdout)).toMatchObject({ state: 'stopped' })
    expect((await alice.login('true')).code).toBe(255)
    expect(await alice.manage()).toMatchObject({ code: 0, stdout: expect.stringMatching(/runs on gpu1/) as string })
    expect(await alice.login('id -un')).toMatchObject({ code: 0, stdout: 'alice\n', stderr: '' })
  })

  it('serialises what is asked at the same time', async () => {
    await alice.manage('stop')
    const starts = await Promise.all([alice.manage('start'), alice.manage('start')])
    expect(starts.map(({ code }) => code)).toEqual([0, 0])
    await alice.manage('stop')
    const starting = spawn('ssh', ['-F', alice.sshConfig, 'gpu1-manage', 'start'], {
      stdio: ['ignore', 'ignore', 'pipe']
    })
    const started = once(starting, 'exit')
    await once(starting.stderr, 'data')
    expect(await alice.manage('stop')).toMatchObject({
      code: 75,
      stderr: expect.stringMatching(/start.*has been running for/) as string
    })
    expect(await started).toEqual([0, null])
    expect(await alice.login('echo up')).toMatchObject({ stdout: 'up\n' })
  })

  it('finishes what was begun when the client leaves', async () => {
    await alice.manage('stop')
    const client = spawn('ssh', ['-F', alice.sshConfig, 'gpu1-manage', 'start'], {
      stdio: ['ignore', 'ignore', 'pipe']
    })
    await once(client.stderr, 'data')
    client.kill('SIGKILL')
    await expect
      .poll(async () => (await alice.login('echo up')).stdout, { timeout: 30_000, interval: 500 })
      .toBe('up\n')
  })

  it('opens a root shell that needs neither sshd nor network', async () => {
    // By systemd: what a session leaves behind may end with it.
    const broken = 'echo broken >> /etc/ssh/sshd_config; systemctl stop ssh.socket ssh; ip link set eth0 down'
    await alice.login(`sudo systemd-run --no-block sh -c "${broken}"`)
    // Not by logging in: a connection that is just being made when the network goes hangs.
    const link = async () => (await alice.manage('shell -- cat /sys/class/net/eth0/operstate')).stdout
    await expect.poll(link).toBe('down\n')
    expect(await alice.login('true', { options: ['-o', 'ConnectTimeout=2'] })).toMatchObject({ code: 255 })
    expect(await alice.manage('shell -- id -u')).toMatchObject({ code: 0, stdout: '0\n' })
    expect(await alice.manage('shell --user alice -- sh -c "id -un; exit 7"')).toMatchObject({
      code: 7,
      stdout: 'alice\n'
    })
    expect(await alice.manage('shell', { input: 'echo from stdin $((6*7))\nexit 3\n' })).toMatchObject({
      code: 3,
      stdout: 'from stdin 42\n'
    })
    expect(await alice.manage('shell -- sed -i /broken/d /etc/ssh/sshd_config')).toMatchObject({ code: 0 })
    expect(await alice.manage('restart')).toMatchObject({ code: 0 })
    expect(await alice.login('echo back')).toMatchObject({ stdout: 'back\n' })
  })
})

async function freeLoopbackPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
