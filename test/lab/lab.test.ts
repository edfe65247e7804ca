import { readdir, readlink } from 'node:fs/promises'
import { Agent, request } from 'undici'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { listProcesses } from './cgroups.ts'
import { downLab, upLab } from './lab.ts'
import { run } from './run.ts'
import { labsDir, linesOf, takeDown } from './traces.ts'
import { trustNewClient } from './trust-client.ts'

const name = `wipe-${process.pid}`
const directory = join(labsDir, name)

describe('a lab', () => {
  afterAll(() => downLab(name))

  test('leaves nothing on the machine, with a container running in it', async () => {
    const rulesBefore = await linesOf('nft', 'list', 'ruleset')
    const lab = await upLab({ name })
    const lxc = (...args: string[]) => run('env', `LXD_DIR=${lab.lxdDir}`, `LXD_CONF=${directory}/lxc`, 'lxc', ...args)
    await lxc('network', 'create', 'br0', 'ipv6.address=none', 'ipv4.address=10.77.0.1/24')
    await lxc('launch', 'debian-12', 'c1', '--network', 'br0')
    expect(JSON.parse(await lxc('list', '--format', 'json'))).toMatchObject([{ name: 'c1', status: 'Running' }])
    const netns = await readlink(`/proc/${lab.place.initPid}/ns/net`)
    await expect.poll(async () => (await listProcesses(lab.place.name)).length, { timeout: 10_000 }).toBeGreaterThan(10)
    expect(await takeDown(name)).toEqual([])
    expect(await linesOf('nft', 'list', 'ruleset')).toEqual(rulesBefore)
    const pids = await readdir('/proc')
    expect(await Promise.all(pids.map(pid => readlink(`/proc/${pid}/ns/net`).catch(() => '')))).not.toContain(netns)
  })

  test.each([
    ['umount -R /sys/fs/cgroup', /^lab: No cgroups are mounted here, .*mount -t cgroup2.*\.\n$/],
    [
      'mount -o remount,bind,ro $(findmnt -nro TARGET -t cgroup,cgroup2 | tail -n 1)',
      /^lab: .* cannot be written, .*\.\n$/
    ]
  ])('says in a sentence what the machine lacks, after %s', async (spoil, told) => {
    const up = `${process.execPath} ${join(import.meta.dirname, 'main.ts')} up --name ${name}`
    const spoilt = run('unshare', '--mount', 'sh', '-c', `${spoil} && exec ${up}`)
    await expect(spoilt).rejects.toMatchObject({ code: 1, stderr: expect.stringMatching(told) })
  })

  test('takes a new client over HTTPS, and tells one it does not trust apart', async () => {
    const lab = await upLab({ name, images: [] })
    const { cert, key, serverCertificate } = await trustNewClient(lab)
    const ask = async (identity: { cert?: string; key?: string }) => {
      const pinned = { ca: serverCertificate, checkServerIdentity: () => undefined, ...identity }
      await using dispatcher = Object.assign(new Agent({ connect: pinned }), {
        async [Symbol.asyncDispose]() {
          await dispatcher.destroy()
        }
      })
      const { body } = await request(`https://${lab.httpsAddress}/1.0`, { dispatcher })
      return await body.json()
    }
    expect(await ask({ cert, key })).toMatchObject({ metadata: { auth: 'trusted' } })
    expect(await ask({})).toMatchObject({ metadata: { auth: 'untrusted' } })
    await downLab(name)
  })
})
