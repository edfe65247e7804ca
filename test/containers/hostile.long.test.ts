import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { KeyPush } from '../../src/containers/containers.ts'
import type { User } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
import { openLabContainers, type LabContainers } from './lab-containers.ts'

const LIST = '/etc/ssh/berth_keys/mallory'
const BOUND_MS = 5000

describe('a member who is root in the container and means harm', () => {
  let lab: LabContainers
  let alice: User
  let mallory: User

  beforeAll(async () => {
    lab = await openLabContainers()
    ;[alice, mallory] = [await lab.addUser('alice'), await lab.addUser('mallory')]
    await Promise.all([alice, mallory].map(user => lab.containers.register(user, lab.node, undefined)))
  })
  afterAll(() => lab[Symbol.asyncDispose]())

  /** What mallory types as root, by the way in that needs neither sshd nor network. */
  async function shell(line: string, user = mallory): Promise<{ code: number; stdout: string }> {
    const stdout = new PassThrough()
    const chunks: Buffer[] = []
    stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
    const stdin = new PassThrough()
    stdin.end()
    const code = await lab.containers.openShell(user, lab.node, {
      loginUser: 'root',
      command: ['/bin/bash', '-c', line],
      terminal: undefined,
      stdin,
      stdout,
      stderr: new PassThrough().resume(),
      onSignal: () => {},
      gone: new AbortController().signal
    })
    return { code, stdout: Buffer.concat(chunks).toString() }
  }

  async function timed<T>(action: Promise<T>): Promise<T> {
    const startMs = performance.now()
    const result = await action
    expect(performance.now() - startMs).toBeLessThan(BOUND_MS)
    return result
  }
  const push = async (user: User): Promise<KeyPush | undefined> => (await timed(lab.containers.pushKeys(user)))[0]
  const faults = async (): Promise<string> => (await timed(lab.containers.status(mallory, lab.node))).faults.join('\n')

  it('is well at first', async () => {
    expect(await push(mallory)).toEqual({ node: 'gpu1', outcome: 'pushed' })
    expect(await faults()).toBe('')
  })

  it.each([
    ['a symbolic link', `ln -s /root/precious ${LIST}`, /is a symbolic link/],
    ['a fifo', `mkfifo ${LIST}`, /is not a regular file/],
    ['a directory', `mkdir ${LIST}`, /is not a regular file/],
    [
      'a mounted file that is read-only',
      `touch ${LIST}; mount --bind /etc/hostname ${LIST}; mount -o remount,ro,bind ${LIST}`,
      /busy/i
    ],
    [
      'a list in a directory that is read-only',
      'mount --bind /etc/ssh/berth_keys /etc/ssh/berth_keys; mount -o remount,ro,bind /etc/ssh/berth_keys',
      /read-only/i
    ],
    [
      'a list in a directory that is a symbolic link',
      'mv /etc/ssh/berth_keys /etc/ssh/moved; ln -s /root /etc/ssh/berth_keys',
      /is a symbolic link/
    ],
    [
      'a list below a directory that is a symbolic link',
      'mv /etc/ssh /etc/ssh-moved; ln -s /etc/ssh-moved /etc/ssh',
      /is a symbolic link/
    ]
  ])('cannot lead berth astray by %s', async (_what, trap, fault) => {
    await shell(`echo precious >/root/precious; rm -f ${LIST}; ${trap}`)
    const [pushed, other] = await Promise.all([push(mallory), push(alice)])
    expect(pushed).toMatchObject({ outcome: 'failed', fault: expect.stringMatching(fault) as string })
    expect(other).toEqual({ node: 'gpu1', outcome: 'pushed' })
    expect(await faults()).toMatch(fault)
    expect(await shell('cat /root/precious; ls /root')).toEqual({ code: 0, stdout: 'precious\nprecious\n' })
    await shell(
      `umount ${LIST} /etc/ssh/berth_keys; [ ! -L /etc/ssh ] || { rm /etc/ssh; mv /etc/ssh-moved /etc/ssh; }
       [ ! -L /etc/ssh/berth_keys ] || { rm /etc/ssh/berth_keys; mv /etc/ssh/moved /etc/ssh/berth_keys; }; rm -rf ${LIST}`
    )
    expect(await push(mallory)).toEqual({ node: 'gpu1', outcome: 'pushed' })
    expect(await faults()).toBe('')
  })

  it.each([
    ['never ends', '#!/bin/bash\\nexec sleep 1000'],
    ['never stops talking', '#!/bin/bash\\nexec yes'],
    ['writes to the terminal of whoever reads it', '#!/bin/bash\\nprintf "\\\\033]0;owned\\\\a\\\\n" >&2; exit 1']
  ])('cannot hold berth up with a shell that %s', async (_what, script) => {
    await shell(
      `cp /bin/dash /bin/dash.kept; printf '${script}\\n' >/bin/sh.new; chmod 755 /bin/sh.new; mv /bin/sh.new /bin/sh`
    )
    const [pushed, other] = await Promise.all([push(mallory), push(alice)])
    expect(pushed?.outcome).toBe('failed')
    expect(pushed?.fault).toMatch(/^[\x20-\x7e]+$/)
    expect(other).toEqual({ node: 'gpu1', outcome: 'pushed' })
    expect(await faults()).toMatch(/list of keys could not be written/)
    expect((await shell('pgrep -fc "sleep 1000|yes"')).stdout).toBe('0\n')
    await shell('cp /bin/dash.kept /bin/sh.new; mv /bin/sh.new /bin/sh')
    expect(await push(mallory)).toEqual({ node: 'gpu1', outcome: 'pushed' })
  })

  it.each([
    [
      'sshd_config is broken',
      'echo nonsense >>/etc/ssh/sshd_config',
      'sed -i /nonsense/d /etc/ssh/sshd_config',
      /sshd refuses its configuration.*nonsense/
    ],
    [
      'sshd no longer reads the list',
      'mv /etc/ssh/sshd_config.d/00-berth.conf /root/',
      'mv /root/00-berth.conf /etc/ssh/sshd_config.d/',
      /AuthorizedKeysFile/
    ],
    ['sshd is stopped', 'systemctl stop ssh', 'systemctl start ssh', /No SSH server answers/],
    ['sudo is gone', 'mv /usr/bin/sudo /root/', 'mv /root/sudo /usr/bin/', /sudo is not installed/],
    ['sudo asks', 'mv /etc/sudoers.d/99-berth /root/', 'mv /root/99-berth /etc/sudoers.d/', /sudo does not give/],
    [
      'home is a link that leads nowhere',
      'mv /home/mallory /home/old; ln -s /nowhere /home/mallory',
      'rm /home/mallory; mv /home/old /home/mallory',
      /home directory/
    ],
    [
      'the network is down',
      'ip link set eth0 down; ip address flush dev eth0',
      'ip link set eth0 up; ifdown --force eth0; ifup eth0',
      /eth0 has no address/
    ]
  ])('is told by status when %s, and shell still gets in', async (_what, break_, mend, fault) => {
    await shell(break_)
    try {
      expect(await faults()).toMatch(fault)
      expect(await shell('id -u')).toEqual({ code: 0, stdout: '0\n' })
      expect(await push(alice)).toEqual({ node: 'gpu1', outcome: 'pushed' })
    } finally {
      await shell(mend)
    }
    await expect.poll(faults, { timeout: 15_000, interval: 1000 }).toBe('')
  })

  it('cannot be started with a broken sshd, is told which step failed, and can mend it', async () => {
    await shell('systemctl disable ssh; systemctl mask ssh')
    const error = await lab.containers.restart(mallory, lab.node).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(UserError)
    expect(error).toMatchObject({
      reason: 'unreachable',
      details: expect.stringMatching(/No SSH server answers/) as string
    })
    await shell('systemctl unmask ssh; systemctl enable --now ssh')
    await expect.poll(faults, { timeout: 15_000, interval: 1000 }).toBe('')
  })

  it('finds everything put right by the restart after one that failed, and nothing written through what lay in the way', async () => {
    const outside = mkdtempSync(join(tmpdir(), 'berth-outside-'))
    await shell(
      `mkdir -p ${outside}; echo precious >/root/precious; rm -rf /etc/ssh/berth_keys /etc/ssh/ssh_host_*
       ln -s ${outside} /etc/ssh/berth_keys; ln -s /root/precious /etc/ssh/ssh_host_ed25519_key
       mkfifo /etc/ssh/ssh_host_ecdsa_key; ln -s /proc/1/root${outside}/x /etc/ssh/ssh_host_ed25519_key.pub`
    )
    await lab.containers.restart(mallory, lab.node)
    expect(readdirSync(outside)).toEqual([])
    rmSync(outside, { recursive: true })
    expect(
      await shell(`cat /root/precious; ls ${outside}; stat -c %F /etc/ssh/berth_keys ${LIST} /etc/ssh/ssh_host_e*_key`)
    ).toEqual({
      code: 0,
      stdout: 'precious\ndirectory\nregular file\nregular file\nregular file\n'
    })
    expect(await lab.ssh(mallory, 'id -un')).toMatchObject({ code: 0, stdout: 'mallory\n' })
    expect(await faults()).toBe('')
  })

  it('is still reachable from outside only where the container is, with /etc/ssh leading elsewhere at start', async () => {
    const outside = mkdtempSync(join(tmpdir(), 'berth-outside-'))
    await shell(
      `mkdir -p ${outside}; cp -a /etc/ssh/. ${outside}/; mv /etc/ssh /etc/ssh-moved; ln -s ${outside} /etc/ssh`
    )
    for (let round = 0; round < 2; round++) await lab.containers.restart(mallory, lab.node).catch(() => {})
    expect(readdirSync(outside)).toEqual([])
    rmSync(outside, { recursive: true })
    await shell('rm /etc/ssh; mv /etc/ssh-moved /etc/ssh')
    await lab.containers.restart(mallory, lab.node)
    expect(await lab.ssh(mallory, 'id -un')).toMatchObject({ code: 0 })
  })

  it('with no process to spare is answered in time, and can be stopped', async () => {
    await shell('for i in $(seq 600); do sleep 600 & done >/dev/null 2>&1 </dev/null').catch(() => {})
    await push(mallory)
    await timed(lab.containers.status(mallory, lab.node))
    expect(await push(alice)).toEqual({ node: 'gpu1', outcome: 'pushed' })
    expect(await lab.containers.stop(mallory, lab.node, { timeoutMs: 5000 })).toMatch(/stopped|killed/)
    await lab.containers.start(mallory, lab.node)
    expect(await faults()).toBe('')
  })
})
