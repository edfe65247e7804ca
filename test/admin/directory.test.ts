import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run } from '../rig.ts'
import { type Desk, MAIN, makeKey, openDesk } from './desk.ts'

interface Key {
  fingerprint: string
  comment: string
}

// One desk and one `serve` for all: each test adds users of its own.
let desk: Desk
beforeAll(async () => {
  desk = await openDesk()
  await desk.serve()
})
afterAll(() => desk[Symbol.asyncDispose]())

describe('berth user', () => {
  it('adds a user with keys from files and standard input, and says what to send', async () => {
    const keys = [await makeKey(desk.directory, 'laptop'), await makeKey(desk.directory, 'desktop')] as const
    const input = `# mine\n\n${readFileSync(keys[1], 'utf8')}`
    const added = await desk.berth(
      ['user', 'add', 'alice', '--key', keys[0], '--key', '/dev/stdin', '--port', '22500'],
      {
        input
      }
    )
    expect(added.code).toBe(0)
    expect(added.stdout).toMatch(
      /ssh -p \d+ alice@127\.0\.0\.1 config >> ~\/\.ssh\/config\n +ssh register@gpu1-manage alice/
    )
    const user = await desk.json<{ keys: Key[] }>('user', 'show', 'alice')
    expect(user).toMatchObject({ name: 'alice', state: 'enabled', fixedPort: 22500, containers: [] })
    expect(user.keys.map(({ comment }) => comment)).toEqual(['laptop', 'desktop'])
    const printed = await run(['ssh-keygen', '-l', '-f', keys[0]])
    expect(printed.stdout).toContain(user.keys[0]?.fingerprint)
  })

  it('adds all or nothing', async () => {
    const mine = await makeKey(desk.directory, 'first')
    expect((await desk.berth(['user', 'add', 'dora', '--key', mine])).code).toBe(0)
    const refused = await desk.berth(['user', 'add', 'emil', '--key', mine])
    expect(refused.code).toBe(77)
    expect(refused.stderr).toContain('belongs to another user')
    expect((await desk.berth(['user', 'show', 'emil'])).code).toBe(64)
  })

  it.each([
    [['user', 'add', 'Root'], 65, 'lower-case'],
    [['user', 'add', 'root'], 65, 'reserved'],
    [['user', 'add', 'zoe', '--port', '80'], 73, '22000 to 22999'],
    [['user', 'add', 'zoe', '--port', '22.5'], 64, 'port'],
    [['user', 'add', 'zoe', '--key', '/nowhere.pub'], 64, '/nowhere.pub'],
    [['user', 'show', 'nobody-here'], 64, 'berth user list'],
    [['user', 'remove', 'nobody-here', '--yes'], 64, 'berth user list'],
    [['user', 'frobnicate'], 64, 'berth user --help'],
    [['user', 'list', '--_', 'x'], 64, 'Unknown option: --_'],
    [['user', 'list', '-_'], 64, 'Unknown option: -_'],
    [['user', 'list', '--$0=x'], 64, 'Unknown option: --$0'],
    [['user', 'list', '--__proto__', 'x'], 64, 'berth user --help'],
    [['user', 'list', '--constructor', 'x'], 64, 'berth user --help'],
    [['user'], 64, 'add, list, show'],
    [['user', 'list', '--jsno'], 64, 'jsno'],
    [['user', 'add', 'one', 'two'], 64, 'two'],
    [['user', 'add', 'zoe', '--port', '22001', '--port', '22002'], 64, '--port is given more than once'],
    [['key', 'list'], 64, 'berth key list NAME'],
    [['frobnicate'], 64, 'berth --help'],
    [['audit', '--since', 'yesterday-ish'], 64, '2h'],
    [['node', 'check', 'gpu9'], 64, 'gpu1'],
    [['node', 'trust', 'gpu1'], 64, 'unix://'],
    [['template', 'build', 'win95'], 64, 'debian-12']
  ])('refuses berth %j with %i and says what to do', async (words, code, hint) => {
    const ran = await desk.berth(words)
    expect(ran).toMatchObject({ code, stdout: '' })
    expect(ran.stderr).toContain(hint)
  })

  it('refuses words after --', async () => {
    const ran = await desk.berth(['user', 'list', '--config', desk.configPath, '--', 'anything'])
    expect(ran).toMatchObject({ code: 64, stdout: '' })
    expect(ran.stderr).toContain('after --: anything')
  })

  it('refuses a private key without repeating it', async () => {
    const pub = await makeKey(desk.directory, 'secret')
    const ran = await desk.berth(['user', 'add', 'zoe', '--key', pub.replace('.pub', '')])
    expect(ran.code).toBe(65)
    expect(ran.stderr).toMatch(/private/)
    expect(ran.stderr).not.toContain(readFileSync(pub.replace('.pub', ''), 'utf8').split('\n')[2])
  })

  it('asks for the name again before it removes a user, and needs --yes without a terminal', async () => {
    expect(await desk.berth(['user', 'add', 'gone'])).toMatchObject({ code: 0 })
    const without = await desk.berth(['user', 'remove', 'gone'])
    expect(without.code).toBe(64)
    expect(without.stderr).toContain('berth user remove gone --yes')
    const mistyped = await desk.onTerminal(['user', 'remove', 'gone'], 'gnoe')
    expect(mistyped.stdout).toContain('This deletes for good: the user gone')
    expect(mistyped.code).toBe(64)
    expect(await names()).toContain('gone')
    const confirmed = await desk.onTerminal(['user', 'remove', 'gone'], 'gone')
    expect(confirmed.stdout).toContain('gone is removed')
    expect(confirmed.code).toBe(0)
    expect(await names()).not.toContain('gone')
  })

  it('disables and enables', async () => {
    await desk.berth(['user', 'add', 'frida'])
    expect((await desk.berth(['user', 'disable', 'frida'])).code).toBe(0)
    expect((await desk.json<{ state: string }>('user', 'show', 'frida')).state).toBe('disabled')
    expect((await desk.berth(['user', 'enable', 'frida'])).code).toBe(0)
    expect((await desk.json<{ state: string }>('user', 'show', 'frida')).state).toBe('enabled')
  })
})

describe('berth key', () => {
  it('adds, lists and removes, the last one too', async () => {
    await desk.berth(['user', 'add', 'kim'])
    const file = await makeKey(desk.directory, 'kim')
    expect((await desk.berth(['key', 'add', 'kim', file])).code).toBe(0)
    expect((await desk.berth(['key', 'add', 'kim', file])).code).toBe(73)
    const [entry] = await desk.json<[Key]>('key', 'list', 'kim')
    expect(entry).toMatchObject({ type: 'ssh-ed25519', comment: 'kim', lastUsedAtMs: null })
    const removed = await desk.berth(['key', 'remove', 'kim', entry.fingerprint])
    expect(removed.code).toBe(0)
    expect(removed.stdout).toContain('berth invite kim')
    expect(removed.stdout).toContain('authorized_keys')
    expect(await desk.json('key', 'list', 'kim')).toEqual([])
    expect((await desk.berth(['key', 'remove', 'kim', entry.fingerprint])).code).toBe(64)
  })
})

describe('berth invite', () => {
  it('makes the user, and prints the whole line to send', async () => {
    const { stdout } = await desk.berth(['invite', 'ines'])
    expect(stdout).toContain('User ines is new')
    expect(stdout).toContain('ssh-keygen -t ed25519')
    expect(stdout).not.toContain('has ended')
    const code = '[0-9A-Z]{4}(-[0-9A-Z]{4}){3}'
    const line = `ssh -p \\d+ -i ~/\\.ssh/id_ed25519 -o IdentitiesOnly=yes enroll@127\\.0\\.0\\.1 ines ${code}`
    expect(stdout).toMatch(new RegExp(line))
    const [, fingerprint] = /(SHA256:\S+)/.exec(stdout) ?? []
    const hostKey = await run(['ssh-keygen', '-lf', join(desk.stateDir, 'ssh_host_ed25519_key')])
    expect(hostKey.stdout).toContain(fingerprint as string)
    const again = await desk.json<{ expiresAtMs: number; code: string; lines: object[] }>('invite', 'ines')
    expect(again).toMatchObject({ name: 'ines', created: false, ended: true })
    expect((await desk.berth(['invite', 'ines'])).stdout).toContain('The invite that ines had before has ended')
    const days = (again.expiresAtMs - Date.now()) / 86_400_000
    expect(days).toBeGreaterThan(6.99)
    expect(days).toBeLessThanOrEqual(7)
    expect(again.lines).toEqual([{ node: 'gpu1', line: expect.stringContaining(again.code) }])
  })

  it('does not make a user whose name is refused', async () => {
    expect((await desk.berth(['invite', 'sshd'])).code).toBe(65)
    expect(await names()).not.toContain('sshd')
  })
})

describe('listings', () => {
  it.each([
    ['user list', expect.any(Array)],
    ['node list', [{ name: 'gpu1', containers: 0, fault: expect.stringContaining('no-lxd.socket') }]],
    ['template list', [{ name: 'debian-12', nodes: [{ node: 'gpu1', fault: expect.any(String) }] }]],
    ['audit', []],
    ['doctor', { faults: expect.any(Number), reports: expect.any(Array) }],
    ['node check gpu1', { faults: 1, reports: [{ node: 'gpu1', findings: [{ check: 'lxd', level: 'fault' }] }] }]
  ])('berth %s --json is one document', async (words, shape) => {
    expect(await desk.json(...words.split(' '))).toMatchObject(shape)
  })

  it('finds berth.yaml by --config, $BERTH_CONFIG, and says where it looked', async () => {
    const list = (env: Record<string, string>) => run([process.execPath, MAIN, 'user', 'list'], { env })
    expect((await list({ BERTH_CONFIG: desk.configPath })).code).toBe(0)
    const missing = await list({ BERTH_CONFIG: '/nowhere/berth.yaml' })
    expect(missing.code).toBe(65)
    expect(missing.stderr).toBe(
      'berth: There is no configuration yet. /nowhere/berth.yaml does not exist.\n' +
        'Make it with: berth init --config /nowhere/berth.yaml\n'
    )
    expect((await desk.berth(['user', 'list'], { env: { BERTH_CONFIG: '/nowhere/berth.yaml' } })).code).toBe(0)
  })

  it('shows the help of everything', async () => {
    const { stdout, code } = await desk.berth(['--help'])
    expect(code).toBe(0)
    const words = [...stdout.matchAll(/^ {2}berth (\w+)/gm)].map(([, word]) => word)
    expect(words).toEqual(
      'serve init demo doctor user key invite node template snapshot operations audit backup'.split(' ')
    )
    expect((await desk.berth(['key', 'remove', '--help'])).stdout).toContain('authorized_keys')
  })
})

describe('berth backup', () => {
  it('copies the database while serve writes, for its owner alone, and never over a file', async () => {
    await using busy = await openDesk()
    await busy.serve()
    await busy.berth(['user', 'add', 'alice'])
    const file = join(busy.directory, 'copy.sqlite')
    const [backup] = await Promise.all([busy.berth(['backup', file]), busy.berth(['user', 'add', 'bob'])])
    expect(backup.code).toBe(0)
    expect(statSync(file).mode & 0o777).toBe(0o600)
    const copy = new Sqlite(file, { readonly: true })
    expect(copy.pragma('integrity_check', { simple: true })).toBe('ok')
    expect(copy.prepare('SELECT name FROM users').pluck().all()).toContain('alice')
    copy.close()
    writeFileSync(file, 'precious')
    const refused = await busy.berth(['backup', file])
    expect(refused.code).toBe(73)
    expect(readFileSync(file, 'utf8')).toBe('precious')
    expect((await busy.berth(['backup', '/nowhere/copy'])).code).toBe(64)
  })
})

async function names(): Promise<string[]> {
  return (await desk.json<{ name: string }[]>('user', 'list')).map(user => user.name)
}
