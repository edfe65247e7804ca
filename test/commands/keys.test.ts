import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run, startRig, type Member, type Rig } from '../rig.ts'

let rig: Rig
let alice: Member

beforeAll(async () => {
  rig = await startRig()
  alice = await rig.addRunningMember('alice')
})
afterAll(() => rig[Symbol.asyncDispose]())

const fingerprintOf = async (path: string) => (await run(['ssh-keygen', '-lf', path])).stdout.split(' ')[1] as string

describe('keys', () => {
  it('lists the key in use', async () => {
    const fingerprint = await fingerprintOf(`${alice.identity}.pub`)
    const { code, stdout } = await alice.manage('keys')
    expect(code).toBe(0)
    expect(stdout).toMatch(/^SHA256:\S+ {2}ssh-ed25519 {2}alice\n {4}added .*, last used .* from .*, this one\n$/)
    expect(stdout).toContain(fingerprint)
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
    expect(JSON.parse((await alice.manage('keys --json')).stdout)).toMatchObject([
      { fingerprint, type: 'ssh-ed25519', comment: 'alice' }
    ])
  })

  it('adds a key from standard input that works in the running container at once, and removes it as fast', async () => {
    const laptop = await rig.makeKey('laptop')
    const added = await alice.manage('keys add', { input: readFileSync(`${laptop}.pub`) })
    expect(added).toMatchObject({ code: 0 })
    expect(added.stdout).toMatch(/gpu1: in effect/)
    // Only the new key is offered: the config's IdentityFile of the first must not help.
    const only = [
      'ssh',
      '-F',
      'none',
      '-i',
      laptop,
      '-o',
      'IdentitiesOnly=yes',
      '-o',
      'IdentityAgent=none',
      '-o',
      'BatchMode=yes'
    ]
    const status = JSON.parse((await alice.manage('status --json')).stdout) as { address: string; fixedPort: number }
    const login = [
      ...only,
      '-o',
      'StrictHostKeyChecking=no',
      '-o',
      'UserKnownHostsFile=/dev/null',
      '-p',
      String(status.fixedPort),
      `alice@${status.address}`,
      'echo in'
    ]
    expect(await run(login)).toMatchObject({ code: 0, stdout: 'in\n' })
    const removed = await alice.manage(`keys remove ${await fingerprintOf(`${laptop}.pub`)}`)
    expect(removed).toMatchObject({ code: 0, stdout: expect.stringMatching(/^Removed/) as string })
    expect(await run(login)).toMatchObject({ code: 255 })
  })

  it('a key that was removed opens nothing more, not even on a connection that is open', async () => {
    const lost = await rig.makeKey('lost')
    expect(await alice.manage('keys add', { input: readFileSync(`${lost}.pub`) })).toMatchObject({ code: 0 })
    const [ssh, ...words] = rig.manageArguments('alice', lost) as [string, ...string[]]
    const sharing = ['-o', 'ControlMaster=auto', '-o', `ControlPath=${rig.directory}/shared`, '-o', 'ControlPersist=60']
    const shared = [ssh, ...sharing, ...words]
    expect(await run([...shared, 'status'])).toMatchObject({ code: 0 })
    expect(await run([...shared, 'status'])).toMatchObject({ code: 0 })
    expect(await alice.manage(`keys remove ${await fingerprintOf(`${lost}.pub`)}`)).toMatchObject({ code: 0 })
    expect(await run([...shared, 'status'])).toMatchObject({ code: 255, stdout: '' })
  })

  it("never touches the member's own authorized_keys", async () => {
    await alice.login('mkdir -p .ssh; echo "# mine" > .ssh/authorized_keys')
    const extra = await rig.makeKey('extra')
    await alice.manage('keys add', { input: readFileSync(`${extra}.pub`) })
    expect(await alice.login('cat .ssh/authorized_keys')).toMatchObject({ stdout: '# mine\n' })
  })

  it('refuses to remove the last one, an unknown one, a foreign one', async () => {
    const bob = await rig.addMember('bob')
    const own = await fingerprintOf(`${bob.identity}.pub`)
    expect(await bob.manage(`keys remove ${own}`)).toMatchObject({ code: 77 })
    expect(await bob.manage(`keys remove ${await fingerprintOf(`${alice.identity}.pub`)}`)).toMatchObject({ code: 64 })
    expect(await bob.manage('keys add', { input: readFileSync(`${alice.identity}.pub`) })).toMatchObject({ code: 77 })
  })

  it('refuses a private key, rubbish, nothing, options and a flood, and adds nothing of it', async () => {
    const before = (await alice.manage('keys --json')).stdout
    const extra = await rig.makeKey('never')
    const good = readFileSync(`${extra}.pub`, 'utf8')
    for (const input of [
      readFileSync(extra),
      'rubbish\n',
      '',
      `command="x" ${good}`,
      `${good}rubbish\n`,
      Buffer.alloc(200_000, 'a')
    ]) {
      const { code, stderr } = await alice.manage('keys add', { input })
      expect(code).toBe(65)
      expect(stderr).not.toBe('')
    }
    const privateKey = await alice.manage('keys add', { input: readFileSync(extra) })
    expect(privateKey.stderr).toMatch(/private key/i)
    const strip = (json: string) => (JSON.parse(json) as { fingerprint: string }[]).map(key => key.fingerprint)
    expect(strip((await alice.manage('keys --json')).stdout)).toEqual(strip(before))
  })
})
