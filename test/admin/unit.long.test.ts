import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Lab, upLab } from '../lab/lab.ts'
import { run, type Ran } from '../rig.ts'

const ROOT = join(import.meta.dirname, '../..')
const MACHINE = 'unitmachine'
const BRIDGE = 'berthunit0'
const SSH =
  'ssh -n -F none -i /root/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
const TEST_MS = 300_000

/** A container with systemd stands for the berth machine: it has this checkout and the way to the lab's LXD. */
describe("the unit that `berth init` writes, under the machine's systemd", () => {
  let lab: Lab
  let address: string

  beforeAll(async () => {
    lab = await upLab({ name: process.env['BERTH_TEST_LAB'] ?? 'test', images: ['debian-12'] })
    await lxc('network', 'create', BRIDGE, 'ipv4.address=10.77.0.1/24', 'ipv4.nat=true', 'ipv6.address=none')
    // Privileged, as the machine itself is: the sandbox of the unit is systemd's alone.
    const privileged = ['-c', 'security.privileged=true', '-c', 'security.nesting=true']
    await done(lxc('launch', 'debian-12', MACHINE, '--network', BRIDGE, ...privileged))
    const disk = (name: string, source: string, path: string) =>
      done(lxc('config', 'device', 'add', MACHINE, name, 'disk', `source=${source}`, `path=${path}`))
    await disk('checkout', ROOT, '/opt/berth')
    await disk('lxd', lab.lxdDir, '/srv/lxd')
    await inside('until ip -4 -o address show dev eth0 | grep -q inet; do sleep 0.2; done')
    address = /10\.77\.\d+\.\d+/.exec(await inside('ip -4 -o address show dev eth0'))?.[0] as string
    await inside('/opt/berth/bin/berth init --lxd /srv/lxd/unix.socket --unit /root/first.service')
    const change = `s/^    managePort: .*/&\\n    manageAddress: ${address}\\n/; s/^    network: .*/    network: ${BRIDGE}b/; s|^  compression:|  dir: /mnt/nas\\n&|`
    await inside(`mkdir /mnt/nas; sed -i '${change}' /etc/berth/berth.yaml`)
    await inside('/opt/berth/bin/berth init --lxd /srv/lxd/unix.socket; systemctl daemon-reload')
    await inside('ssh-keygen -q -t ed25519 -N "" -f /root/key')
  })
  afterAll(async () => {
    await lxc('delete', '--force', MACHINE)
    await lxc('delete', '--force', 'alice', '--project', 'berth')
    await lxc('profile', 'delete', 'berth', '--project', 'berth')
    for (const network of [BRIDGE, `${BRIDGE}b`]) await lxc('network', 'delete', network)
    await lxc('network', 'acl', 'delete', `berth-${BRIDGE}b`)
  })

  const lxc = (...words: string[]): Promise<Ran> =>
    run([...lab.enterAll, 'env', `LXD_DIR=${lab.lxdDir}`, 'lxc', ...words])
  const done = async (ran: Promise<Ran>): Promise<string> => {
    const { code, stdout, stderr } = await ran
    expect(code, stdout + stderr).toBe(0)
    return stdout
  }
  const inside = (line: string): Promise<string> => done(lxc('exec', MACHINE, '--', 'sh', '-c', `cd /; ${line}`))
  const manage = (words: string) => inside(`${SSH} -p 2222 alice@${address} ${words}`)
  const login = (words: string) => inside(`${SSH} -p 22000 alice@${lab.nodeAddress} '${words}'`)
  const show = async (property: string) => (await inside(`systemctl show berth -p ${property} --value`)).trim()

  it('starts when berth is ready, in a sandbox that systemd calls OK', async () => {
    await inside('systemctl start berth')
    expect([await show('Type'), await show('ActiveState')]).toEqual(['notify', 'active'])
    expect(await inside('ss -Hltn "sport = :2222"')).toContain('LISTEN')
    const exposure = /Overall exposure level for berth.service: ([\d.]+)/.exec(
      await inside('systemd-analyze security --no-pager berth.service')
    )
    expect(Number(exposure?.[1])).toBeLessThan(3)
  })

  it(
    'lets members do all they may',
    async () => {
      await inside('/opt/berth/bin/berth user add alice --key /root/key.pub')
      await inside(`${SSH} -p 2222 register@${address} alice`)
      expect(await login('id -un; sudo id -u; echo kept > file')).toBe('alice\n0\n')
      for (const words of ['status', 'config', 'known-hosts', 'keys', 'port 8888', 'port', 'web', 'restart', 'stop'])
        await manage(words)
      expect(await manage('help')).toContain('snapshot')
      const tokenFor = async (words: string) => /\b[0-9A-HJKMNP-TV-Z]{26}\b/.exec(await manage(words))?.[0] as string
      await manage(`snapshot ${await tokenFor('snapshot')}`)
      await manage(`rebuild ${await tokenFor('rebuild')} debian-12`)
      const archive = (await inside('ls /mnt/nas/alice')).trim()
      await manage(`recover ${await tokenFor('recover')} ${archive}`)
      await manage('start')
      expect(await login('cat file')).toBe('kept\n')
      expect(await manage('shell -- id -u')).toBe('0\n')
    },
    TEST_MS
  )

  it(
    'brings a killed berth back, and drops no session into a container at either end',
    async () => {
      const session = login('for i in $(seq 100); do [ -e go ] && exit 0; sleep 0.3; done; exit 1')
      const first = await show('MainPID')
      await inside(`kill -9 ${first}`)
      await expect.poll(() => show('ActiveState'), { timeout: 60_000, interval: 500 }).toBe('active')
      expect([await show('NRestarts'), (await show('MainPID')) === first]).toEqual(['1', false])
      await manage('status')
      await inside('systemctl stop berth')
      expect([await show('Result'), await show('ActiveState')]).toEqual(['success', 'inactive'])
      await login('touch go')
      expect(await session).toBe('')
    },
    TEST_MS
  )

  it('is not started again and again with a configuration that is wrong', async () => {
    await inside("sed -i 's/^stateDir/nonsense/' /etc/berth/berth.yaml; ! systemctl start berth")
    expect([await show('ActiveState'), await show('ExecMainStatus'), await show('NRestarts')]).toEqual([
      'failed',
      '65',
      '0'
    ])
  })
})
