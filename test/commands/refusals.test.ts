import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run, startRig, type Member, type Rig } from '../rig.ts'

let rig: Rig
let alice: Member
let bob: Member

beforeAll(async () => {
  rig = await startRig()
  alice = await rig.addMember('alice')
  bob = await rig.addMember('bob')
})
afterAll(() => rig[Symbol.asyncDispose]())

/** The daemon is the one that was started, and answers. */
async function expectAlive(pid: number): Promise<void> {
  expect(rig.pid).toBe(pid)
  expect(await alice.manage('config')).toMatchObject({ code: 0 })
}

describe('who is not let in', () => {
  it('an unknown key, an unknown user, another user: the same answer, with what to do', async () => {
    const stranger = await rig.makeKey('stranger')
    const answers = [
      await run(rig.manageArguments('alice', stranger)),
      await run(rig.manageArguments('nobody-here', stranger)),
      await run(rig.manageArguments('alice', bob.identity)),
      await run(rig.manageArguments('register', stranger))
    ]
    for (const { code, stdout, stderr } of answers) {
      expect(code).toBe(255)
      expect(stdout).toBe('')
      expect(stderr).toMatch(/admin/)
      expect(stderr).toMatch(/Permission denied/)
    }
    const anonymous = answers.map(({ stderr }) => stderr.replaceAll(/alice|nobody-here|register/g, 'NAME'))
    expect(anonymous[0]).toBe(anonymous[1])
    expect(anonymous[0]).toBe(anonymous[2])
  })

  it('a disabled user; an enabled one again', async () => {
    const carol = await rig.addMember('carol')
    expect(await rig.berth('user', 'disable', 'carol')).toMatchObject({ code: 0 })
    const refused = await carol.manage('status')
    expect(refused.code).not.toBe(0)
    expect(refused.stderr).toMatch(/disabled/)
    expect(await rig.berth('user', 'enable', 'carol')).toMatchObject({ code: 0 })
    expect(await carol.manage('config')).toMatchObject({ code: 0 })
  })

  it('registering or enrolling for somebody else: refused and audited, nothing made', async () => {
    expect(await bob.register('alice')).toMatchObject({ code: 77 })
    const { code } = JSON.parse((await rig.berth('invite', 'alice', '--json')).stdout) as { code: string }
    expect(await run([...rig.manageArguments('enroll', bob.identity), 'alice', code])).toMatchObject({ code: 77 })
    const audit = JSON.parse((await rig.berth('audit', '--user', 'bob', '--json')).stdout) as {
      words: string
      exitCode: number
      reason: string
    }[]
    expect(audit).toContainEqual(
      expect.objectContaining({ words: 'register alice', exitCode: 77, reason: 'not-allowed' })
    )
    expect(audit).toContainEqual(
      expect.objectContaining({ words: 'enroll alice ***', exitCode: 77, reason: 'key-taken' })
    )
    expect((await rig.lxc('list', '--format', 'csv', '--columns', 'n')).stdout).toBe('')
  })
})

describe('what is not run', () => {
  it.each([
    ['a semicolon', 'status; id', 64],
    ['a command substitution', 'status $(id)', 64],
    ['backticks', 'status `id`', 64],
    ['a pipe', 'status | cat', 64],
    ['a redirection', 'status > /tmp/x', 64],
    ['an and', 'status && id', 64],
    ['a newline', 'status\nid', 64],
    ['an open quote', 'status "', 64],
    ['a control character', 'status \u0007', 64],
    ['an escape sequence', '\u001b[2Jstatus', 64],
    ['an unknown command', 'frobnicate', 64],
    ['a prototype', '__proto__', 64],
    ['a path', '/bin/sh', 64],
    ['an unknown option', 'status --frob', 64],
    ['an option without its value', 'stop --timeout', 64],
    ["yargs' name of the words", 'status --_ x', 64],
    ["yargs' name of the words, among letters", 'stop -t_', 64],
    ["yargs' name of the program", "status '--$0' x", 64],
    ['an option called prototype', 'status --__proto__ x', 64],
    ['an option called constructor', 'status --constructor x', 64],
    ["yargs' name of a default command", "keys '$0'", 64],
    ['too many words', 'status one two', 64],
    ['a word after --', 'keys -- anything', 64],
    ['a word after --, of help', 'help keys -- anything', 64],
    ["another role's command", 'enroll alice 0000-0000-0000-0000', 77],
    ['a long line', `status ${'a'.repeat(5000)}`, 64]
  ])('%s', async (_, words, expected) => {
    const pid = rig.pid
    const { code, stdout, stderr } = await alice.manage(words)
    expect({ code, stdout }).toEqual({ code: expected, stdout: '' })
    expect(stderr.trim()).not.toBe('')
    expect(stderr).not.toContain('\u001b')
    await expectAlive(pid)
  })

  it('bytes that are no UTF-8, and a mebibyte of command', async () => {
    const pid = rig.pid
    const bytes = await run(['sh', '-c', `ssh -F ${alice.sshConfig} gpu1-manage "$(printf 'status \\377\\376')"`])
    expect(bytes.code).toBe(64)
    const { code, stdout } = await run([
      'sh',
      '-c',
      `head -c 120000 /dev/zero | tr '\\0' a > ${rig.directory}/long; ssh -F ${alice.sshConfig} gpu1-manage "$(cat ${rig.directory}/long)"`
    ])
    expect({ refused: code !== 0, stdout }).toEqual({ refused: true, stdout: '' })
    await expectAlive(pid)
  })

  it('a hundred channels at once on one connection', async () => {
    const pid = rig.pid
    const control = ['-o', 'ControlMaster=auto', '-o', `ControlPath=${rig.directory}/cm-%C`, '-o', 'ControlPersist=30']
    await alice.manage('config', { options: control })
    const answers = await Promise.all(Array.from({ length: 100 }, () => alice.manage('keys', { options: control })))
    for (const { code, stdout, stderr } of answers) {
      if (code === 0) expect(stdout).toContain('SHA256:')
      else expect(stderr).not.toBe('')
    }
    expect(answers.filter(({ code }) => code === 0).length).toBeGreaterThanOrEqual(10)
    await run(['ssh', '-F', alice.sshConfig, ...control, '-O', 'exit', 'gpu1-manage'])
    await expectAlive(pid)
  })
})

describe('the audit log', () => {
  it('holds every command with its circumstances, and no code anywhere', async () => {
    const { code } = JSON.parse((await rig.berth('invite', 'dora', '--json')).stdout) as { code: string }
    const identity = await rig.makeKey('dora')
    // Typed in the wrong places too.
    await run([...rig.manageArguments('enroll', identity), code])
    await run([...rig.manageArguments('enroll', identity), code, 'dora'])
    expect(await run([...rig.manageArguments('enroll', identity), 'dora', code])).toMatchObject({ code: 0 })
    const dora = await rig.member('dora', identity)
    await dora.manage(`frobnicate ${code}`)
    await dora.manage('help')
    const audit = await rig.berth('audit', '--json')
    expect(audit.stdout).not.toContain(code)
    expect(rig.log.join('\n')).not.toContain(code)
    expect(JSON.parse(audit.stdout)).toContainEqual(
      expect.objectContaining({
        user: 'dora',
        login: 'dora',
        words: 'help',
        node: 'gpu1',
        exitCode: 0,
        address: rig.lab.hostAddress,
        fingerprint: (await run(['ssh-keygen', '-lf', `${identity}.pub`])).stdout.split(' ')[1],
        durationMs: expect.any(Number) as number,
        atMs: expect.any(Number) as number
      })
    )
    const line = rig.log
      .map(entry => JSON.parse(entry) as Record<string, unknown>)
      .find(entry => entry['words'] === 'help' && entry['user'] === 'dora')
    expect(line).toMatchObject({ exitCode: 0, session: expect.any(String) as string })
  })
})

describe('help', () => {
  it('explains every command, and each of them has an entry', async () => {
    const { code, stdout } = await alice.manage('help')
    expect(code).toBe(0)
    const listed = [...stdout.matchAll(/^  ([a-z-]+)  /gm)].map(([, verb]) => verb as string)
    for (const verb of [
      'register',
      'start',
      'status',
      'stop',
      'restart',
      'shell',
      'keys',
      'config',
      'known-hosts',
      'help'
    ]) {
      expect(listed).toContain(verb)
      const one = await alice.manage(`help ${verb}`)
      expect(one).toMatchObject({ code: 0, stderr: '' })
      expect(one.stdout).toContain(`ssh gpu1-manage ${verb}`)
      expect(await alice.manage(`${verb} --help`)).toEqual(one)
    }
    expect(Math.max(...stdout.split('\n').map(line => line.length))).toBeLessThanOrEqual(80)
    expect(await alice.manage('help frobnicate')).toMatchObject({ code: 64 })
    const slip = await alice.manage('statsu')
    expect(slip).toMatchObject({ code: 64, stdout: '' })
    expect(slip.stderr).toContain('Did you mean status?')
    const note = await alice.manage('snapshot --note before upgrade')
    expect(note).toMatchObject({ code: 64, stdout: '' })
    expect(note.stderr).toContain(`--note '"before the upgrade"'`)
  })

  it('is the same with and without a terminal, but for colour and line ends', async () => {
    const plain = await alice.manage('help')
    for (const options of [['-T'], ['-n']]) expect(await alice.manage('help', { options })).toEqual(plain)
    const forced = await alice.manage('help', { options: ['-tt', '-o', 'LogLevel=ERROR'] })
    expect(forced.code).toBe(0)
    expect(forced.stdout.replaceAll(/\u001b\[[0-9;]*m|\r/g, '')).toBe(plain.stdout)
  })
})
