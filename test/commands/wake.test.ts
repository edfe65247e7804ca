import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import ssh2 from 'ssh2'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cachedIncusTree } from '../lab/images.ts'
import { run, startRig, type Member, type Ran, type Rig, type RunOptions } from '../rig.ts'
import { itLong, LONG } from '../suite.ts'

/*
 * The printed config and known_hosts as a member has them: in ~/.ssh of a home directory of the test's own, which is laid over the
 * real one in a mount namespace, for ssh takes the path from passwd(5) and not from the environment.
 */

let rig: Rig
let alice: Member
let home: string
let tree: string

beforeAll(async () => {
  if (LONG) tree = await cachedIncusTree('/var/cache/berth-lab', line => console.log(line))
  rig = await startRig()
  alice = await rig.addRunningMember('alice')
  home = await makeHome('home', ['config'])
})
afterAll(async () => {
  await atHome(['ssh', '-q', '-O', 'exit', 'gpu1-manage'])
  await rig[Symbol.asyncDispose]()
})

/** A home with the member's key, and what the commands print appended to config and known_hosts. */
async function makeHome(name: string, commands: string[]): Promise<string> {
  const directory = join(rig.directory, name)
  mkdirSync(join(directory, '.ssh'), { recursive: true, mode: 0o700 })
  copyFileSync(alice.identity, join(directory, '.ssh/id_ed25519'))
  chmodSync(join(directory, '.ssh/id_ed25519'), 0o600)
  // As editors leave it: without an end of the last line, inside an entry for one host.
  writeFileSync(join(directory, '.ssh/config'), 'Host elsewhere\n    User somebody')
  for (const command of commands) append(directory, 'config', await alice.manage(command))
  append(directory, 'known_hosts', await alice.manage('known-hosts'))
  return directory
}

function append(directory: string, file: string, { code, stdout }: Ran): void {
  expect(code).toBe(0)
  appendFileSync(join(directory, '.ssh', file), stdout)
}

const withHome = (directory: string, argv: string[]) => [
  ...['unshare', '--mount', '--propagation', 'private', 'sh', '-c'],
  ...['mount --bind "$0" /root && cd /root && exec "$@"', directory, ...argv]
]
const atHome = (argv: string[], options?: RunOptions) => run(withHome(home, argv), options)
const inContainer = (words: string) => rig.lxc('exec', 'alice', '--', 'sh', '-c', words)

async function isRunning(): Promise<boolean> {
  const { stdout } = await rig.lxc('list', 'alice', '--format', 'csv', '--columns', 's')
  return stdout.trim() === 'RUNNING'
}

/** As a reboot of the node leaves it. */
const crash = async () => expect(await rig.lxc('stop', '--force', 'alice')).toMatchObject({ code: 0 })

/** From inside, which is not the `stop` that berth heeds. */
async function powerOff(): Promise<void> {
  await inContainer('poweroff')
  await expect.poll(isRunning, { timeout: 30_000 }).toBe(false)
}

const timed = async (argv: string[]): Promise<number> => {
  const startedAtMs = performance.now()
  expect(await atHome(argv)).toMatchObject({ code: 0, stderr: '' })
  return performance.now() - startedAtMs
}

describe('the printed config', () => {
  it('logs in without a question, shares the connection that is asked first, and says nothing', async () => {
    expect(await atHome(['ssh', 'gpu1', 'id -un'])).toEqual({ code: 0, stdout: 'alice\n', stderr: '' })
    expect(await atHome(['ssh', '-O', 'check', 'gpu1-manage'])).toMatchObject({ code: 0 })
  })

  it('leaves the entries around it alone, appended once or twice', async () => {
    const { stdout: config } = await alice.manage('config')
    appendFileSync(join(home, '.ssh/config'), config)
    appendFileSync(join(home, '.ssh/config'), 'NumberOfPasswordPrompts 2\n')
    for (const [host, user] of [
      ['elsewhere', 'somebody'],
      ['gpu1', 'alice'],
      ['gpu1-manage', 'alice'],
      ['third', 'root']
    ] as const) {
      const { code, stdout, stderr } = await atHome(['ssh', '-TG', host])
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout.split('\n')).toContain(`user ${user}`)
      expect(stdout.split('\n')).toContain('numberofpasswordprompts 2')
    }
    const { stderr } = await atHome(['ssh', '-v', 'gpu1', 'true'])
    expect(stderr.match(/Executing command: .* wake/g)).toHaveLength(1)
  })

  it('can be kept in a file of its own, which Include takes in', async () => {
    const included = await makeHome('included', [])
    writeFileSync(join(included, '.ssh/berth_config'), (await alice.manage('config --no-wake')).stdout)
    const before = readFileSync(join(included, '.ssh/config'), 'utf8')
    writeFileSync(join(included, '.ssh/config'), `Include berth_config\n${before}\nHost *\n    User everybody\n`)
    expect(await run(withHome(included, ['ssh', 'gpu1', 'id -un']))).toEqual({ code: 0, stdout: 'alice\n', stderr: '' })
    expect((await run(withHome(included, ['ssh', '-G', 'third']))).stdout).toContain('user everybody\n')
  })

  it('finds known hosts in the file of berth as well', async () => {
    const apart = await makeHome('apart', ['config --no-wake'])
    const known = join(apart, '.ssh/known_hosts')
    copyFileSync(known, join(apart, '.ssh/berth_known_hosts'))
    rmSync(known)
    expect(await run(withHome(apart, ['ssh', '-o', 'BatchMode=yes', 'gpu1', 'true']))).toMatchObject({ code: 0 })
  })

  it('asks `wake` unless told not to, and on Windows only if told; shares no connection there', async () => {
    const has = async (words: string) => {
      const { code, stdout } = await alice.manage(words)
      expect(code).toBe(0)
      return { wakes: stdout.includes('-manage wake'), shares: stdout.includes('ControlMaster auto') }
    }
    expect(await has('config')).toEqual({ wakes: true, shares: true })
    expect(await has('config --no-wake')).toEqual({ wakes: false, shares: true })
    expect(await has('config --windows')).toEqual({ wakes: false, shares: false })
    expect(await has('config --windows --wake')).toEqual({ wakes: true, shares: false })
    expect(await alice.manage('config --wake --no-wake')).toMatchObject({ code: 64 })
  })
})

describe('the OpenSSH of', () => {
  const debian12 = (directory: string, argv: string[]) => withHome(directory, argv)
  const debian13 = (directory: string, argv: string[]) => [
    ...['unshare', '--mount', '--propagation', 'private', 'sh', '-c'],
    'mount --bind "$0" "$1/root" && mount --rbind /dev "$1/dev" && exec chroot "$@"',
    ...[directory, tree, ...argv]
  ]

  const releases = [
    ['Debian 12', 'OpenSSH_9.2', debian12],
    ['Debian 13', 'OpenSSH_10.0', debian13]
  ] as const
  it.each(LONG ? releases : releases.slice(0, 1))(
    '%s reads it as it is meant, and is woken for',
    async (_, version, within) => {
      expect((await run(within(home, ['ssh', '-V']))).stderr).toContain(version)
      const { fixedPort } = JSON.parse((await alice.manage('status --json')).stdout) as { fixedPort: number }
      const settings = async (directory: string, host: string) => {
        const { code, stdout, stderr } = await run(within(directory, ['ssh', '-TG', host]))
        expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
        return stdout.split('\n')
      }
      const known = 'userknownhostsfile /root/.ssh/known_hosts /root/.ssh/berth_known_hosts'
      const login = ['user alice', `hostname ${rig.lab.nodeAddress}`, `port ${fixedPort}`, known, 'controlmaster false']
      const manage = ['user alice', `hostname ${rig.lab.hostAddress}`, `port ${rig.managePort}`, known]
      expect(await settings(home, 'gpu1')).toEqual(expect.arrayContaining(login))
      expect(await settings(home, 'gpu1-manage')).toEqual(
        expect.arrayContaining([...manage, 'controlmaster auto', 'controlpersist 60', 'forwardagent no'])
      )
      const windows = await makeHome(`windows-${version}`, ['config --windows'])
      expect(await settings(windows, 'gpu1')).toEqual(expect.arrayContaining(login))
      expect(await settings(windows, 'gpu1-manage')).toEqual(expect.arrayContaining([...manage, 'controlmaster false']))
      await crash()
      expect(await run(within(home, ['ssh', 'gpu1', 'id -un']))).toEqual({
        code: 0,
        stdout: 'alice\n',
        stderr: 'Starting your container on gpu1…\n'
      })
    }
  )

  itLong('10.1 and later is told not to warn, by lines that older ones read over', async () => {
    const newer = await makeHome('newer', [])
    const config = await commandAs('OpenSSH_10.1', 'config --no-wake')
    expect(config).toMatch(/IgnoreUnknown WarnWeakCrypto[^]*WarnWeakCrypto no-pq-kex/)
    expect((await alice.manage('config')).stdout).not.toContain('WarnWeakCrypto')
    appendFileSync(join(newer, '.ssh/config'), config)
    for (const within of [debian12, debian13]) {
      expect(await run(within(newer, ['ssh', 'gpu1', 'id -un']))).toEqual({ code: 0, stdout: 'alice\n', stderr: '' })
    }
  })
})

/** What a client that calls itself `ident` is answered. */
async function commandAs(ident: string, words: string): Promise<string> {
  const client = new ssh2.Client()
  client.connect({
    ident,
    host: rig.lab.hostAddress,
    port: rig.managePort,
    username: 'alice',
    privateKey: readFileSync(alice.identity)
  })
  await once(client, 'ready')
  const channel = await new Promise<ssh2.ClientChannel>((resolve, reject) =>
    client.exec(words, (error, opened) => (error ? reject(error) : resolve(opened)))
  )
  const stdout = await text(channel)
  client.end()
  return stdout
}

describe('a login', () => {
  it('starts a container that has gone down, says so, and then logs in', async () => {
    await powerOff()
    expect(await atHome(['ssh', 'gpu1', 'id -un'])).toEqual({
      code: 0,
      stdout: 'alice\n',
      stderr: 'Starting your container on gpu1…\n'
    })
  })

  itLong('with scp, sftp and rsync as well', async () => {
    const file = join(rig.directory, 'bytes')
    writeFileSync(file, 'some bytes\n')
    await crash()
    expect(await atHome(['scp', '-q', file, 'gpu1:one'])).toMatchObject({ code: 0 })
    await crash()
    expect(await atHome(['rsync', '-a', file, 'gpu1:two'])).toMatchObject({ code: 0 })
    await crash()
    expect(await atHome(['sftp', '-q', '-b', '-', 'gpu1'], { input: `put ${file} three\n` })).toMatchObject({ code: 0 })
    expect(await atHome(['ssh', 'gpu1', 'cat one two three | sort -u'])).toMatchObject({ stdout: 'some bytes\n' })
  })

  itLong('is let in when many come at once', async () => {
    await crash()
    const logins = await Promise.all(Array.from({ length: 5 }, () => atHome(['ssh', 'gpu1', 'echo in'])))
    expect(logins.map(({ stdout }) => stdout)).toEqual(Array(5).fill('in\n'))
  })

  itLong('waits for a restart', async () => {
    const restarting = spawn('ssh', ['-F', alice.sshConfig, 'gpu1-manage', 'restart'], {
      stdio: ['ignore', 'ignore', 'pipe']
    })
    const restarted = once(restarting, 'exit')
    await once(restarting.stderr, 'data')
    expect(await atHome(['ssh', 'gpu1', 'echo in'])).toMatchObject({ code: 0, stdout: 'in\n' })
    await restarted
  })

  it('after a `stop` is refused with the line that starts it, and starts nothing', async () => {
    await atHome(['ssh', 'gpu1', 'true'])
    expect(await alice.manage('stop')).toMatchObject({ code: 0 })
    const startedAtMs = performance.now()
    const refused = await atHome(['ssh', '-o', 'ConnectTimeout=5', 'gpu1', 'true'])
    expect(refused.code).toBe(255)
    expect(refused.stderr).toContain('stopped on purpose')
    expect(refused.stderr).toContain('ssh gpu1-manage\n')
    expect(performance.now() - startedAtMs).toBeLessThan(10_000)
    expect(await isRunning()).toBe(false)
    expect(await alice.manage('wake')).toMatchObject({ code: 75, stdout: '' })
    expect(await alice.manage('')).toMatchObject({ code: 0 })
    expect(await atHome(['ssh', 'gpu1', 'echo back'])).toMatchObject({ code: 0, stdout: 'back\n' })
  })

  itLong('to a container that runs is not noticeably slower for it', async () => {
    const withoutWake = await makeHome('no-wake', ['config --no-wake'])
    const plain = async () => {
      const startedAtMs = performance.now()
      await run(withHome(withoutWake, ['ssh', 'gpu1', 'true']))
      return performance.now() - startedAtMs
    }
    await timed(['ssh', 'gpu1', 'true'])
    const woken: number[] = []
    const unasked: number[] = []
    for (let round = 0; round < 7; round++) {
      woken.push(await timed(['ssh', 'gpu1', 'true']))
      unasked.push(await plain())
    }
    const median = (values: number[]) => values.toSorted((a, b) => a - b)[3] as number
    console.log(`ssh gpu1 true: ${median(unasked).toFixed()} ms, with wake ${median(woken).toFixed()} ms`)
    expect(median(woken) - median(unasked)).toBeLessThan(150)
  })

  itLong('goes on when berth is away', async () => {
    await rig.end()
    try {
      expect(await atHome(['ssh', 'gpu1', 'echo in'])).toEqual({ code: 0, stdout: 'in\n', stderr: '' })
    } finally {
      await rig.serve()
    }
  })
})
