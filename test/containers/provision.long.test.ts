import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { User } from '../../src/directory/users.ts'
import { deleteFile, pushFile } from '../../src/lxd/files.ts'
import { createInstance, getInstance, renameInstance } from '../../src/lxd/instances.ts'
import { SERVERS } from '../suite.ts'
import { openLabContainers, type LabContainers } from './lab-containers.ts'

describe.each(SERVERS)('an image with cloud-init, ssh.socket and a user of its own, on %s', server => {
  let lab: LabContainers
  let alice: User

  beforeAll(async () => {
    lab = await openLabContainers({ server, images: ['debian-13'] })
    alice = await lab.addUser('alice')
    await lab.containers.register(alice, lab.node, undefined)
  })
  afterAll(() => lab[Symbol.asyncDispose]())

  it("becomes the member's: user, group, home, sudo, host name", async () => {
    expect(await lab.ssh(alice, 'id; pwd; sudo -n id -u; hostname; ls /home; getent passwd 1000')).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(
        /^uid=1000\(alice\) gid=1000\(alice\) .*\n\/home\/alice\n0\nalice\nalice\nalice:x:1000:1000:/
      ) as string
    })
    const { stdout } = await lab.inside(
      alice,
      'grep -rl ubuntu /etc/passwd /etc/group /etc/shadow /etc/sudoers /etc/sudoers.d /etc/subuid /etc/subgid; stat -c %U /home/alice/.bashrc'
    )
    expect(stdout).toBe('alice\n')
  })

  it('keeps its way of starting sshd', async () => {
    expect((await lab.inside(alice, 'systemctl is-active ssh.socket; systemctl is-enabled ssh.service')).stdout).toBe(
      'active\ndisabled\n'
    )
  })

  it("keeps berth's host keys, and no others, though cloud-init takes it for a new machine after a rename", async () => {
    const fingerprint = 'cat /etc/ssh/ssh_host_*_key.pub; ls /etc/ssh/ssh_host_*; cat /var/lib/cloud/data/instance-id'
    const before = (await lab.inside(alice, fingerprint)).stdout
    expect(before.match(/ssh_host_\w+_key$/gm)).toEqual(['ssh_host_ecdsa_key', 'ssh_host_ed25519_key'])
    await lab.containers.stop(alice, lab.node)
    await renameInstance(lab.lxd, 'alice', 'elsewhere')
    await renameInstance(lab.lxd, 'elsewhere', 'alice')
    await lab.containers.start(alice, lab.node)
    await lab.inside(alice, 'cloud-init status --wait')
    const after = (await lab.inside(alice, fingerprint)).stdout
    expect(after.split('\n').slice(0, -2)).toEqual(before.split('\n').slice(0, -2))
    expect(await lab.ssh(alice, 'id -un; hostname; getent passwd ubuntu')).toMatchObject({ stdout: 'alice\nalice\n' })
    if (server === 'lxd') expect(after).not.toBe(before)
  })

  if (server === 'lxd') {
    it('is set up again without harm', async () => {
      const state = 'cat /etc/passwd /etc/sudoers.d/* /etc/ssh/sshd_config /etc/ssh/sshd_config.d/* /etc/hosts'
      const before = (await lab.inside(alice, state)).stdout
      lab.database.prepare('UPDATE containers SET provisioned_at_ms = NULL').run()
      await lab.containers.start(alice, lab.node)
      expect((await lab.inside(alice, state)).stdout).toBe(before)
    })

    it("counts no one's failures against all where they come from one address", async () => {
      const penalties = 'sshd -T | grep -ic "^persourcepenalties no"'
      expect((await lab.inside(alice, penalties)).stdout).toBe('0\n')
      const { containers, node } = lab.reconfigure({ forwarding: 'proxy' })
      await containers.restart(alice, node)
      expect((await lab.inside(alice, penalties)).stdout).toBe('1\n')
      expect((await getInstance(lab.lxd, 'alice')).devices['ssh']).not.toHaveProperty('nat')
      expect(await lab.ssh(alice, 'echo $SSH_CONNECTION')).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/^127\.0\.0\.1 /) as string
      })
      await lab.containers.restart(alice, lab.node)
      expect((await lab.inside(alice, penalties)).stdout).toBe('0\n')
      expect((await getInstance(lab.lxd, 'alice')).devices['ssh']).toMatchObject({ nat: 'true' })
      const { stdout } = await lab.ssh(alice, 'echo $SSH_CONNECTION')
      expect(stdout).toContain(lab.lab.hostAddress)
    })
  }
})

describe('images of other makes', () => {
  let lab: LabContainers
  beforeAll(async () => {
    lab = await openLabContainers({ server: SERVERS[0] })
    await lab.containers.ensureNode(lab.node)
  })
  afterAll(() => lab[Symbol.asyncDispose]())

  /** A container as `register` would find it half-made, from an image that is different in some way. */
  async function madeBefore(name: string, change: () => Promise<void>): Promise<User> {
    const user = await lab.addUser(name)
    await createInstance(lab.lxd, { name, source: { type: 'image', alias: 'debian-12' }, profiles: ['berth'] })
    await change()
    return user
  }

  it('may have an sshd that knows no Include (Ubuntu 18.04)', async () => {
    const config = 'UsePAM yes\nSubsystem sftp /usr/lib/openssh/sftp-server\nMatch User nobody\n  X11Forwarding no\n'
    const dora = await madeBefore('dora', () =>
      pushFile(lab.lxd, 'dora', '/etc/ssh/sshd_config', config, { mode: 0o644 })
    )
    await lab.containers.register(dora, lab.node, undefined)
    expect(await lab.ssh(dora, 'id -un')).toMatchObject({ code: 0, stdout: 'dora\n' })
    expect((await lab.containers.status(dora, lab.node)).faults).toEqual([])
    lab.database.prepare('UPDATE containers SET provisioned_at_ms = NULL').run()
    await lab.containers.start(dora, lab.node)
    const { stdout } = await lab.inside(dora, 'cat /etc/ssh/sshd_config')
    expect(stdout.match(/AuthorizedKeysFile/g)).toHaveLength(1)
    expect(stdout).toContain(config)
  })

  it('are refused when they lack what a member needs', async () => {
    const erik = await madeBefore('erik', async () => {
      await deleteFile(lab.lxd, 'erik', '/usr/bin/sudo')
    })
    await expect(lab.containers.register(erik, lab.node, undefined)).rejects.toMatchObject({
      reason: 'image-unfit',
      details: 'sudo is missing in the image'
    })
  })
})
