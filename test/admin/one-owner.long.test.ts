import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import Sqlite from 'better-sqlite3'
import { describe, expect, it } from 'vitest'
import { type Desk, endProcess, makeKey, openDesk } from './desk.ts'

describe('the state has one owner', () => {
  it('refuses a second serve, and lets a new one in after kill -9', async () => {
    await using desk = await openDesk()
    const first = await desk.serve()
    const second = await desk.berth(['serve'])
    expect(second.code).toBe(75)
    expect(second.stderr).toContain('runs already')
    expect(second.stderr).toContain('systemctl status berth')
    await endProcess(first.daemon, 'SIGKILL')
    expect(existsSync(join(desk.stateDir, 'berth.sock'))).toBe(true)
    const third = await desk.serve()
    expect(third.ready).toMatchObject({ level: 'info', pid: third.daemon.pid, stateDir: desk.stateDir })
    expect(await desk.json('user', 'list')).toEqual([])
  })

  it('has subcommands act by themselves when serve does not run, a dead socket or not', async () => {
    await using desk = await openDesk()
    expect((await desk.berth(['user', 'add', 'alice'])).code).toBe(0)
    const { daemon } = await desk.serve()
    expect((await desk.berth(['user', 'add', 'bob'])).code).toBe(0)
    await endProcess(daemon, 'SIGKILL')
    expect((await desk.berth(['user', 'add', 'carol'])).code).toBe(0)
    const names = (await desk.json<{ name: string }[]>('user', 'list')).map(user => user.name)
    expect(names).toEqual(['alice', 'bob', 'carol'])
  })

  it('lets many subcommands at once through, one after another', async () => {
    await using desk = await openDesk()
    const names = ['a', 'b', 'c', 'd', 'e']
    const ran = await Promise.all(names.map(name => desk.berth(['invite', name, '--json'])))
    expect(ran.map(({ code }) => code)).toEqual(names.map(() => 0))
    const ports = ran.map(({ stdout }) => JSON.parse(stdout).fixedPort as number)
    expect(ports.toSorted((one, other) => one - other)).toEqual([22000, 22001, 22002, 22003, 22004])
  })

  it('makes nothing that others may read', async () => {
    await using desk = await openDesk()
    await desk.serve()
    expect(statSync(desk.stateDir).mode & 0o777).toBe(0o700)
    const files = readdirSync(desk.stateDir)
    expect(files).toEqual(expect.arrayContaining(['berth.lock', 'berth.sock', 'berth.sqlite', 'ssh_host_ed25519_key']))
    const open = files.filter(file => (statSync(join(desk.stateDir, file)).mode & 0o077) !== 0)
    expect(open).toEqual([])
  })

  it('ends cleanly on SIGTERM, and says so to the log', async () => {
    await using desk = await openDesk()
    const { daemon } = await desk.serve()
    const lines = text(daemon.stdout as NodeJS.ReadableStream as never)
    expect(await endProcess(daemon, 'SIGTERM')).toBe(0)
    expect(await lines).toMatch(/"signal":"SIGTERM".*"msg":"stopping"[\s\S]*"msg":"stopped"/)
  })

  it('tells systemd when it is ready', async () => {
    await using desk = await openDesk()
    const path = join(desk.directory, 'notify')
    const program = `use Socket; socket(my $s, AF_UNIX, SOCK_DGRAM, 0); bind($s, sockaddr_un($ARGV[0])) or die; $|=1;
      print "bound\\n"; recv($s, my $m, 4096, 0); print $m`
    const systemd = spawn('perl', ['-e', program, path], { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(systemd.stdout, 'data')
    const told = text(systemd.stdout)
    const { ready } = await desk.serve({ NOTIFY_SOCKET: path })
    expect(ready['msg']).toBe('ready')
    expect(await told).toContain('READY=1')
  })

  it('refuses to talk to a serve of another version', async () => {
    await using desk = await openDesk()
    await desk.serve()
    const answer = await post(desk, 'user.list', '{}', { 'berth-version': '0.0.0' })
    expect(JSON.parse(answer)).toMatchObject({ error: { reason: 'locked-state' } })
    expect(answer).toContain('systemctl restart berth')
  })

  it('survives nonsense on its socket', async () => {
    await using desk = await openDesk()
    await desk.serve()
    const { version } = (await import('../../package.json', { with: { type: 'json' } })).default
    const headers = { 'berth-version': version }
    expect(await post(desk, 'user.list', 'no json', headers)).toContain('"error"')
    expect(await post(desk, 'user.add', '{"name":1}', headers)).toContain('"error"')
    expect(await post(desk, 'no.such', '{}', headers)).toContain('unknown-command')
    expect(await desk.json('user', 'list')).toEqual([])
  })

  it('refuses a database of a newer berth, serving or not, and leaves it as it is', async () => {
    await using desk = await openDesk()
    await desk.berth(['user', 'add', 'alice'])
    const version = setVersion(desk, 900)
    for (const words of [['serve'], ['user', 'add', 'bob'], ['user', 'list']]) {
      const ran = await desk.berth(words)
      expect(ran.code).toBe(65)
      expect(ran.stderr).toContain('900')
    }
    setVersion(desk, version)
    expect(await desk.json('user', 'list')).toMatchObject([{ name: 'alice' }])
  })

  it('says so when the state directory is not to be written', async () => {
    await using desk = await openDesk({ stateDir: '/etc/passwd/berth' })
    const ran = await desk.berth(['serve'])
    expect(ran.code).toBe(65)
    expect(ran.stderr).toContain('/etc/passwd/berth')
  })

  it('says which port is taken', async () => {
    await using one = await openDesk()
    const { ready } = await one.serve()
    const port = Number(/:(\d+)/.exec((ready['listening'] as string[])[0] ?? '')?.[1])
    await using other = await openDesk({
      ssh: { listen: '127.0.0.1' },
      nodes: { gpu1: { address: '127.0.0.1', managePort: port, lxd: 'unix:///nowhere' } }
    })
    const ran = await other.berth(['serve'])
    expect(ran.code).toBe(73)
    expect(ran.stderr).toContain(`${port}`)
  })

  it('shuts out a user in the running daemon at once', async () => {
    await using desk = await openDesk()
    const { ready } = await desk.serve()
    const key = await makeKey(desk.directory, 'alice')
    await desk.berth(['user', 'add', 'alice', '--key', key])
    const port = /:(\d+)/.exec((ready['listening'] as string[])[0] ?? '')?.[1] as string
    const options = [
      '-F',
      'none',
      '-i',
      key.replace('.pub', ''),
      '-p',
      port,
      '-o',
      'IdentitiesOnly=yes',
      '-o',
      'BatchMode=yes'
    ]
    const trust = ['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR']
    const login = [...options, ...trust, 'alice@127.0.0.1', 'keys']
    const ssh = (): Promise<number | null> =>
      new Promise(resolve => spawn('ssh', login, { stdio: 'ignore' }).on('close', resolve))
    expect(await ssh()).toBe(0)
    expect((await desk.berth(['user', 'disable', 'alice'])).code).toBe(0)
    expect(await ssh()).not.toBe(0)
    expect((await desk.berth(['user', 'enable', 'alice'])).code).toBe(0)
    expect(await ssh()).toBe(0)
  })
})

/** @returns the version before */
function setVersion(desk: Desk, version: number): number {
  const database = new Sqlite(join(desk.stateDir, 'berth.sqlite'))
  const before = database.pragma('user_version', { simple: true }) as number
  database.pragma(`user_version = ${version}`)
  database.close()
  return before
}

function post(desk: Desk, action: string, body: string, headers: Record<string, string>): Promise<string> {
  return new Promise((resolve, reject) => {
    request({ socketPath: join(desk.stateDir, 'berth.sock'), method: 'POST', path: `/${action}`, headers })
      .on('response', incoming => resolve(text(incoming)))
      .on('error', reject)
      .end(body)
  })
}
