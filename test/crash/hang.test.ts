import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { installPackages } from '../lab/packages.ts'
import { run, startRig, type Member, type Ran, type Rig } from '../rig.ts'

/*
 * A NAS that hangs is not one that fails: whoever asks it waits, and cannot even be killed. Node reads and writes files with four
 * threads; four hung calls, and nothing of it works any more.
 */

const HOUR = 3_600_000
/** How long berth waits for the NAS (README), and what a busy machine takes on top. */
const PATIENCE_MS = 60_000
const SLACK_MS = 30_000

async function must(...argv: string[]): Promise<string> {
  const ran = await run(argv)
  expect(ran, ran.stderr).toMatchObject({ code: 0 })
  return ran.stdout
}

const tokenIn = ({ stdout, stderr }: Ran): string => {
  const token = /\b[0-9A-HJKMNP-TV-Z]{26}\b/.exec(stdout)?.[0]
  expect(token, stdout + stderr).toBeDefined()
  return token as string
}

/** Types a command and does something as soon as it says `word`. */
async function typeUntil(member: Member, line: string, word: string, meanwhile: () => unknown): Promise<Ran> {
  const child = spawn('ssh', ['-F', member.sshConfig, 'gpu1-manage', line], { stdio: ['ignore', 'pipe', 'pipe'] })
  const said = { stdout: '', stderr: '' }
  const heard = Promise.withResolvers<void>()
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (data: Buffer) => {
      said[name] += data.toString()
      if (said[name].includes(word)) heard.resolve()
    })
  }
  const closed = once(child, 'close').then(([code]) => {
    heard.resolve()
    return code as number
  })
  await heard.promise
  await meanwhile()
  return { code: await closed, ...said }
}

/** All that others do goes on: logins by key, the database, LXD, and no one of them waits for the NAS. */
async function expectOthersServed(rig: Rig, other: Member): Promise<void> {
  for (const command of ['status', 'keys', 'snapshots', 'start', 'stop --timeout 0']) {
    // LXD itself may be slow on a busy machine; what is at stake here never answers.
    const type = async () => (await other.manage(command, { timeoutMs: SLACK_MS })).code
    await expect.poll(type, { timeout: SLACK_MS, message: command }).toBe(0)
  }
  expect(await rig.berth('user', 'list')).toMatchObject({ code: 0 })
}

async function expectNothingLeft(rig: Rig, nas: string, members: readonly Member[]): Promise<void> {
  const open = async () => JSON.parse((await rig.berth('operations', '--json')).stdout) as unknown[]
  await expect.poll(open, { timeout: PATIENCE_MS + SLACK_MS, interval: 500 }).toEqual([])
  const instances = async () => (await rig.lxc('list', '--format', 'csv', '--columns', 'n')).stdout.trim().split('\n')
  await expect.poll(instances, { timeout: SLACK_MS }).toEqual(members.map(({ name }) => name).toSorted())
  const unfinished = () =>
    members.flatMap(({ name }) => {
      const directory = join(nas, name)
      return existsSync(directory) ? readdirSync(directory).filter(file => file.startsWith('.')) : []
    })
  await expect.poll(unfinished, { timeout: SLACK_MS }).toEqual([])
}

describe('a NAS that takes no more writes, in the middle of four archives', () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-nas-'))
  const nas = join(directory, 'nas')
  const names = ['alice', 'bob', 'carol', 'dave']
  let rig: Rig
  let writers: Member[]
  let other: Member

  const freeze = () => must('fsfreeze', '--freeze', nas)
  const thaw = () => must('fsfreeze', '--unfreeze', nas)

  beforeAll(async () => {
    mkdirSync(nas)
    await must('truncate', '-s', '4G', join(directory, 'disk'))
    await must('mkfs.ext4', '-q', join(directory, 'disk'))
    await must('mount', '-o', 'loop', join(directory, 'disk'), nas)
    rig = await startRig({ config: { snapshots: { dir: nas, compression: 'none' } } })
    writers = []
    for (const name of names) writers.push(await rig.addRunningMember(name))
    other = await rig.addRunningMember('other')
    for (const member of [...writers, other]) {
      expect(await member.manage('stop --timeout 5')).toMatchObject({ code: 0 })
    }
  })
  afterAll(async () => {
    await run(['fsfreeze', '--unfreeze', nas])
    await rig[Symbol.asyncDispose]()
    await run(['umount', nas])
    rmSync(directory, { recursive: true, force: true })
  })

  it(
    'is given up, holds up nobody else, and all is tidied once it is back',
    async () => {
      const tokens = await Promise.all(writers.map(async member => tokenIn(await member.manage('snapshot'))))
      const [first, ...rest] = writers.map(async (member, i) => {
        const line = `snapshot ${tokens[i]}`
        return i === 0
          ? typeUntil(member, line, 'MiB of about', freeze)
          : member.manage(line, { timeoutMs: 10 * PATIENCE_MS })
      })
      // By then all of them are at the NAS, or wait for it.
      await sleep(20_000)
      await expectOthersServed(rig, other)
      for (const ended of await Promise.all([first as Promise<Ran>, ...rest])) {
        expect(ended.code, ended.stdout + ended.stderr).toBe(69)
        expect(ended.stderr).toMatch(/has not answered for 60 s|the NAS does not answer/)
      }
      // Their containers are theirs; only another snapshot must wait.
      const [alice] = writers as [Member]
      expect(await alice.manage('start')).toMatchObject({ code: 0 })
      const refused = await alice.manage('snapshot', { timeoutMs: SLACK_MS })
      expect([69, 75], refused.stderr).toContain(refused.code)
      expect(await alice.manage('stop --timeout 5')).toMatchObject({ code: 0 })
      await expectOthersServed(rig, other)

      // Not even a restart waits for what still hangs.
      await rig.end('SIGKILL')
      await rig.serve()
      await expectOthersServed(rig, other)

      await thaw()
      await expectNothingLeft(rig, nas, [...writers, other])
      const again = await alice.manage(`snapshot ${tokenIn(await alice.manage('snapshot'))}`)
      expect(again, again.stderr).toMatchObject({ code: 0 })
    },
    HOUR
  )

  it(
    'while a snapshot is being removed, and berth is killed: it is gone from the list and, in the end, from the NAS',
    async () => {
      const [alice] = writers as [Member]
      const listed = async () => JSON.parse((await alice.manage('snapshots --json')).stdout) as { name: string }[]
      if ((await listed()).length === 0) {
        const taken = await alice.manage(`snapshot ${tokenIn(await alice.manage('snapshot'))}`)
        expect(taken, taken.stderr).toMatchObject({ code: 0 })
      }
      const [{ name }] = (await listed()) as [{ name: string }]
      const token = tokenIn(await alice.manage(`snapshots remove ${name}`))
      await freeze()
      const removing = alice.manage(`snapshots remove ${name} ${token}`)
      await sleep(5000)
      await rig.end('SIGKILL')
      await rig.serve()
      await removing
      expect(await listed()).toEqual([])
      await thaw()
      const files = () => readdirSync(join(nas, 'alice'))
      await expect.poll(files, { timeout: 2 * PATIENCE_MS + SLACK_MS, interval: 500 }).toEqual([])
      expect(await listed()).toEqual([])
      expect(await rig.berth('snapshot', 'verify')).toMatchObject({ code: 0 })
    },
    HOUR
  )
})

describe('a NAS whose server stops answering', () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-nas-'))
  const [nas, disk] = [join(directory, 'nas'), join(directory, 'disk')]
  let mounted: ChildProcess
  let rig: Rig
  let alice: Member
  let other: Member

  const server = () => Number(readFileSync(join(directory, 'pid'), 'utf8'))
  const stop = () => process.kill(server(), 'SIGSTOP')
  const goOn = () => process.kill(server(), 'SIGCONT')

  beforeAll(async () => {
    await installPackages(() => {}, ['sshfs', 'openssh-sftp-server'])
    mkdirSync(nas)
    mkdirSync(disk)
    // sshfs with the server's program itself in the place of the SSH client that would lead to it.
    const client = join(directory, 'client')
    writeFileSync(client, `#!/bin/sh\necho $$ >${directory}/pid\nexec /usr/lib/openssh/sftp-server\n`)
    chmodSync(client, 0o755)
    mounted = spawn('sshfs', ['-f', '-o', `ssh_command=${client}`, `nas:${disk}`, nas], { stdio: 'inherit' })
    while ((await run(['mountpoint', '-q', nas])).code !== 0) await sleep(100)
    rig = await startRig({ config: { snapshots: { dir: nas, compression: 'none' } } })
    alice = await rig.addRunningMember('alice')
    other = await rig.addRunningMember('other')
    expect(await alice.login('echo saved | sudo tee /marker && sync')).toMatchObject({ code: 0 })
    for (const member of [alice, other]) expect(await member.manage('stop --timeout 5')).toMatchObject({ code: 0 })
    const taken = await alice.manage(`snapshot ${tokenIn(await alice.manage('snapshot'))}`)
    expect(taken, taken.stderr).toMatchObject({ code: 0 })
  })
  afterAll(async () => {
    if (existsSync(join(directory, 'pid'))) goOn()
    await rig[Symbol.asyncDispose]()
    await run(['umount', '-l', nas])
    mounted.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  })

  it(
    'before anything is done: that is said within seconds, to everybody',
    async () => {
      stop()
      try {
        const begunAtMs = performance.now()
        const refused = await Promise.all([1, 2, 3, 4, 5, 6].map(() => alice.manage('snapshot')))
        for (const { code, stderr } of refused) {
          expect(code, stderr).toBe(69)
          expect(stderr).toMatch(/has not answered for 10 s|the NAS does not answer/)
        }
        expect(performance.now() - begunAtMs).toBeLessThan(SLACK_MS)
        await expectOthersServed(rig, other)
      } finally {
        goOn()
      }
      await expect.poll(async () => (await alice.manage('snapshot')).code, { timeout: SLACK_MS }).toBe(0)
    },
    HOUR
  )

  it(
    'in the middle of a recovery: the container stays, and the recovery works once it is back',
    async () => {
      const [archive] = readdirSync(join(disk, 'alice')) as [string]
      const recover = async () => `recover ${tokenIn(await alice.manage('recover'))} ${archive}`
      const begunAtMs = performance.now()
      const ended = await typeUntil(alice, await recover(), 'bringing the archive', stop)
      try {
        expect(ended.code, ended.stdout + ended.stderr).toBe(69)
        expect(ended.stderr).toContain('has not answered for 60 s')
        expect(performance.now() - begunAtMs).toBeLessThan(PATIENCE_MS + SLACK_MS)
        await expectNothingLeft(rig, disk, [alice, other])
        await expectOthersServed(rig, other)
        expect(await alice.manage('start')).toMatchObject({ code: 0 })
        expect(await alice.manage('stop --timeout 5')).toMatchObject({ code: 0 })
      } finally {
        goOn()
      }
      await expect.poll(async () => (await alice.manage('snapshot')).code, { timeout: SLACK_MS }).toBe(0)
      const recovered = await alice.manage(await recover())
      expect(recovered, recovered.stderr).toMatchObject({ code: 0 })
      expect(await alice.manage()).toMatchObject({ code: 0 })
      expect(await alice.login('cat /marker')).toMatchObject({ code: 0, stdout: 'saved\n' })
    },
    HOUR
  )
})
