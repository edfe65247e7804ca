import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadConfig } from '../../src/config.ts'
import { type Lab, upLab } from '../lab/lab.ts'
import { run } from '../rig.ts'
import { freePort } from '../free-port.ts'
import { startAnsweringProxy } from '../lxd/answering-proxy.ts'
import { Desk } from './desk.ts'

interface Found {
  check: string
  level: 'ok' | 'warning' | 'fault'
  text: string
  mend?: string
}

let lab: Lab
const BRIDGE = 'berthadm0'
beforeAll(async () => {
  lab = await upLab({ name: process.env['BERTH_TEST_LAB'] ?? 'test', images: ['debian-12'] })
})

afterAll(async () => {
  await lxc('profile', 'delete', 'berth', '--project', 'berth')
  await lxc('network', 'delete', BRIDGE)
  await lxc('network', 'acl', 'delete', `berth-${BRIDGE}`)
})

/** berth.yaml of a desk whose node is the lab's LXD and has no fault. */
async function configureFor(
  desk: Desk,
  node: Record<string, unknown> = {},
  config: Record<string, unknown> = {}
): Promise<void> {
  mkdirSync(join(desk.directory, 'nas'), { recursive: true })
  desk.configure({
    ssh: { listen: lab.hostAddress },
    nodes: {
      gpu1: {
        address: lab.nodeAddress,
        manageAddress: lab.hostAddress,
        managePort: await freePort(lab.hostAddress),
        lxd: `unix://${lab.lxdSocket}`,
        network: BRIDGE,
        ...node
      }
    },
    templates: [{ name: 'debian-12', image: 'debian-12' }],
    snapshots: { dir: join(desk.directory, 'nas') },
    ...config
  })
}

async function examine(desk: Desk): Promise<Found[]> {
  const { reports } = await desk.json<{ reports: { findings: Found[] }[] }>('doctor')
  return reports.flatMap(report => report.findings)
}

const lxc = (...words: string[]) => run([...lab.enterAll, 'env', `LXD_DIR=${lab.lxdDir}`, 'lxc', ...words])

describe('berth init', () => {
  it('writes a berth.yaml that loads and passes doctor, and a unit that systemd understands', async () => {
    await using desk = new Desk()
    const unit = join(desk.directory, 'berth.service')
    const init = ['init', '--lxd', lab.lxdSocket, '--unit', unit, '--state-dir', desk.stateDir]
    const shown = await desk.berth([...init, '--stdout'])
    expect(shown.code).toBe(0)
    expect(existsSync(desk.configPath)).toBe(false)
    const written = await desk.berth(init)
    expect(written.stdout).toMatch(/berth doctor --config .*\n.*systemctl enable --now berth\n.*berth invite NAME/)
    expect(readFileSync(desk.configPath, 'utf8')).toBe(shown.stdout)
    const config = loadConfig(desk.configPath)
    const [node] = [...config.nodes.values()]
    expect(node).toMatchObject({
      address: lab.nodeAddress,
      manageAddress: lab.hostAddress,
      lxd: `unix://${lab.lxdSocket}`,
      storagePool: 'default',
      network: 'berthbr0'
    })
    expect(config.templates.map(({ image }) => image)).toContain('debian-12')
    expect((await examine(desk)).filter(({ level }) => level === 'fault')).toEqual([])
    expect((await run(['systemd-analyze', 'verify', unit])).stderr).toBe('')
    expect(readFileSync(unit, 'utf8')).toContain(`ReadWritePaths=${desk.stateDir}\n`)
  })

  it('never writes over anything without --force, and writes what is missing', async () => {
    await using desk = new Desk()
    const unit = join(desk.directory, 'berth.service')
    const init = ['init', '--lxd', lab.lxdSocket, '--unit', unit]
    await configureFor(desk)
    const before = readFileSync(desk.configPath, 'utf8')
    const first = await desk.berth(init)
    expect(first.stdout).toContain(`Left ${desk.configPath} as it was`)
    expect(readFileSync(desk.configPath, 'utf8')).toBe(before)
    expect(readFileSync(unit, 'utf8')).toContain(`ReadWritePaths=${desk.stateDir} -${desk.directory}/nas\n`)
    expect((await desk.berth(init)).code).toBe(73)
    const anew = () => desk.berth([...init, '--force', '--state-dir', desk.stateDir])
    expect((await anew()).stdout).toContain(`kept as ${desk.configPath}.old and ${unit}.old.`)
    expect(readFileSync(desk.configPath, 'utf8')).not.toBe(before)
    writeFileSync(desk.configPath, `${readFileSync(desk.configPath, 'utf8')}# mine\n`)
    expect((await anew()).stdout).toContain(`kept as ${desk.configPath}.old2.`)
    expect(readFileSync(`${desk.configPath}.old`, 'utf8')).toBe(before)
    expect(readFileSync(`${desk.configPath}.old2`, 'utf8')).toContain('# mine')
    const failed = await desk.berth([...init, '--force', '--state-dir', `${unit}/state`])
    expect(failed.code).not.toBe(0)
    expect(failed.stdout).toContain(`kept as ${desk.configPath}.old3.`)
    expect(existsSync(`${desk.configPath}.new`)).toBe(false)
  })

  it('says what to install where there is no LXD', async () => {
    await using desk = new Desk()
    const ran = await desk.berth(['init', '--lxd', join(desk.directory, 'none.socket'), '--stdout'])
    expect(ran.code).toBe(69)
    expect(ran.stderr).toContain('apt-get install')
  })
})

describe('berth doctor', () => {
  it('finds no fault where there is none', async () => {
    await using desk = new Desk()
    await configureFor(desk)
    await desk.serve()
    const found = await examine(desk)
    expect(found.filter(({ level }) => level === 'fault')).toEqual([])
    expect(found.every(({ level, mend }) => level === 'ok' || mend)).toBe(true)
    expect((await desk.berth(['doctor'])).code).toBe(0)
    const [hole] = found.filter(({ text }) => text.includes('known hole'))
    expect(hole).toMatchObject({ text: expect.stringMatching(/LXD 5\.\S+ has .* mended by 5\.\S+: see docs/) })
    expect(Math.max(hole!.text.length, hole!.mend!.length)).toBeLessThan(110)
    const looked = new Set(found.map(({ check }) => check))
    const all =
      'state database serve manage-port ephemeral-ports inotify idmap snapshots lxd clock firewall project pool bridge image gpus address'
    expect([...looked].toSorted()).toEqual(all.split(' ').toSorted())
  })

  const finds = async (desk: Desk, faults: Record<string, string>): Promise<void> => {
    const found = (await examine(desk)).filter(({ level }) => level === 'fault')
    expect(Object.fromEntries(found.map(({ check, mend }) => [check, mend]))).toEqual(
      Object.fromEntries(Object.entries(faults).map(([check, mend]) => [check, expect.stringContaining(mend)]))
    )
  }

  it('finds what a node lacks, and what mends each', async () => {
    await using desk = new Desk()
    const node = {
      address: '192.0.2.7',
      storagePool: 'tank',
      network: 'lo',
      gpus: ['0000:65:00.0'],
      mounts: [{ source: '/no/such/ssd', path: '/SSD' }]
    }
    await configureFor(desk, node, { templates: [{ name: 'debian-12', image: 'none-such' }] })
    await finds(desk, {
      pool: 'storage create tank btrfs',
      bridge: 'network: another name',
      gpus: 'lspci',
      address: 'listenAddress',
      mounts: 'mkdir -p /no/such/ssd',
      image: 'berth template build debian-12'
    })
  })

  it('finds a dead LXD, a newer database, ephemeral ports and a missing NAS', async () => {
    await using desk = new Desk()
    await configureFor(desk)
    await desk.berth(['user', 'list'])
    const database = new Sqlite(join(desk.stateDir, 'berth.sqlite'))
    database.pragma('user_version = 900')
    database.close()
    const config = { ports: { from: 40000, to: 40999 }, snapshots: { dir: '/no/such/nas' } }
    await configureFor(desk, { lxd: 'unix:///var/lib/lxd/none.socket' }, config)
    await finds(desk, {
      lxd: 'systemctl restart lxd',
      database: 'newer berth',
      'ephemeral-ports': 'sysctl -p',
      snapshots: 'mkdir -p -m 700 /no/such/nas'
    })
  })

  it('finds an open state directory, a damaged database and a loopback address', async () => {
    await using desk = new Desk()
    await configureFor(desk, { address: 'localhost', listenAddress: '0.0.0.0' }, { snapshots: { dir: '/proc/fs' } })
    mkdirSync(desk.stateDir)
    chmodSync(desk.stateDir, 0o755)
    writeFileSync(join(desk.stateDir, 'berth.sqlite'), 'no database at all'.repeat(1000), { mode: 0o600 })
    // What the directory's mark must be stands in the database.
    await finds(desk, { state: 'chmod go=', database: 'berth backup', snapshots: 'berth doctor', address: 'address' })
  })

  it('finds a NAS that cannot be written', async () => {
    await using desk = new Desk()
    await configureFor(desk, {}, { snapshots: { dir: '/proc/fs' } })
    await finds(desk, { snapshots: '/proc/fs' })
  })

  it('finds an untrusted node, and a NAS inside of a mount behind a link', async () => {
    await using desk = new Desk()
    const [shared, nas] = [join(desk.directory, 'shared'), join(desk.directory, 'link')]
    mkdirSync(join(shared, 'archives'), { recursive: true })
    symlinkSync(join(shared, 'archives'), nas)
    const node = { lxd: 'https://192.0.2.1:8443', mounts: [{ source: shared, path: '/newNAS' }] }
    await configureFor(desk, node, { snapshots: { dir: nas } })
    await finds(desk, { lxd: 'berth node trust gpu1', snapshots: 'snapshots.dir' })
  })

  it('finds somebody else on the manage port', async () => {
    await using desk = new Desk()
    const port = await freePort(lab.hostAddress)
    await configureFor(desk, { managePort: port })
    const other = createServer(socket => socket.end('HTTP/1.1 400 Bad Request\r\n')).listen(port, lab.hostAddress)
    const found = (await examine(desk)).find(({ check }) => check === 'manage-port')
    other.close()
    expect(found).toMatchObject({ level: 'fault', text: expect.stringContaining('HTTP/1.1 400') })
    expect(found?.mend).toContain(`ss -ltnp 'sport = :${port}'`)
  })

  it('prints faults with what mends them, and exits with 1', async () => {
    await using desk = new Desk()
    await configureFor(desk, { gpus: ['0000:65:00.0'] }, { snapshots: { dir: '/no/such/nas' } })
    const { code, stdout } = await desk.berth(['doctor'])
    expect(code).toBe(1)
    expect(stdout).toMatch(/FAULT +snapshots: .*\n +mkdir -p -m 700 \/no\/such\/nas/)
    expect(stdout).toMatch(/FAULT +gpus: .*0000:65:00\.0\n +lspci/)
    expect(stdout).toContain('2 faults')
  })

  /** What is found of the node but for what is well, where the server says something else than the lab's real one. */
  async function findsBehind(
    change: Parameters<typeof startAnsweringProxy>[2],
    node: Record<string, unknown> = {}
  ): Promise<Found[]> {
    await using desk = new Desk()
    const proxyPath = join(desk.directory, 'proxy.socket')
    await using _proxy = await startAnsweringProxy(lab.lxdSocket, proxyPath, change)
    await configureFor(desk, { lxd: `unix://${proxyPath}`, ...node })
    const { reports } = await desk.json<{ reports: { findings: Found[] }[] }>('node', 'check', 'gpu1')
    const found = reports.flatMap(({ findings }) => findings)
    return found.filter(({ level, text }) => level !== 'ok' && !text.includes('known hole'))
  }

  it('finds a clock that is wrong by more than some seconds, either way', async () => {
    for (const [aheadMs, seconds] of [
      [90_000, 90],
      [-3_600_000, 3600],
      [2000, undefined]
    ] as const) {
      const found = await findsBehind(({ headers }) => {
        headers['date'] = new Date(Date.parse(String(headers['date'])) + aheadMs).toUTCString()
      })
      expect(found).toEqual(
        seconds === undefined
          ? []
          : [
              {
                check: 'clock',
                level: 'fault',
                text: expect.stringMatching(new RegExp(`^(${seconds - 1}|${seconds}|${seconds + 1}) s apart`)),
                mend: 'timedatectl set-ntp true'
              }
            ]
      )
    }
  })

  it('finds the xtables driver: slower, and a fault where nat is asked for', async () => {
    const change = ({ path, body }: { path: string; body: { metadata: Record<string, unknown> } }) => {
      if (path === '/1.0') Object.assign(body.metadata['environment'] as object, { firewall: 'xtables' })
    }
    const mend = expect.stringContaining('apt-get purge iptables && systemctl restart lxd') as string
    expect(await findsBehind(change)).toMatchObject([{ check: 'firewall', level: 'warning', mend }])
    expect(await findsBehind(change, { forwarding: 'nat' })).toMatchObject([
      { check: 'firewall', level: 'fault', mend }
    ])
  })

  it('finds a GPU that no driver holds, or only one for screens', async () => {
    for (const driver of ['', 'nouveau', 'nvidia']) {
      const card = { driver, pci_address: '0000:65:00.0', vendor_id: '10de', vendor: 'NVIDIA', product: 'A100' }
      const found = await findsBehind(({ path, body }) => {
        if (path === '/1.0/resources') body.metadata['gpu'] = { cards: [card], total: 1 }
      })
      const text = 'no driver holds A100 0000:65:00.0'
      const mend = expect.stringContaining('apt-get install nvidia-driver') as string
      expect({ driver, found }).toEqual({
        driver,
        found: driver === 'nvidia' ? [] : [{ check: 'gpus', level: 'fault', text, mend }]
      })
    }
  })

  it('looks at one node alone with node check', async () => {
    await using desk = new Desk()
    await configureFor(desk, { storagePool: 'tank' })
    const ran = await desk.berth(['node', 'check', 'gpu1'])
    expect(ran.code).toBe(1)
    expect(ran.stdout).toContain('storage create tank')
    expect(ran.stdout).not.toContain('database')
  })
})

describe('a node over HTTPS', () => {
  let desk: Desk
  beforeAll(async () => {
    desk = new Desk()
    await configureFor(desk, { lxd: `https://${lab.httpsAddress}` })
  })
  afterAll(() => desk[Symbol.asyncDispose]())

  it('is not trusted unseen: no terminal, no answer, no pin', async () => {
    const ran = await desk.berth(['node', 'trust', 'gpu1'])
    expect(ran.code).toBe(64)
    expect(ran.stderr).toMatch(/--fingerprint [0-9a-f]{64}/)
    const wrong = await desk.berth(['node', 'trust', 'gpu1', '--fingerprint', 'ab'.repeat(32)])
    expect(wrong.code).toBe(77)
    expect(existsSync(join(desk.stateDir, 'lxd/gpu1.crt'))).toBe(false)
    expect((await desk.berth(['node', 'list'])).stdout).toContain('does not know berth yet')
  })

  it('takes a token, once, and serve uses the new trust at once', async () => {
    await desk.serve()
    const added = await lxc('config', 'trust', 'add', '--name', `desk-${process.pid}`, '--quiet')
    const token = added.stdout.trim().split('\n').at(-1) as string
    const cut = await desk.berth(['node', 'trust', 'gpu1', '--token', token.slice(0, 40)])
    expect(cut.code).toBe(64)
    const trusted = await desk.berth(['node', 'trust', 'gpu1', '--token', token])
    expect(trusted).toMatchObject({ code: 0, stderr: '' })
    for (const file of ['client.crt', 'client.key', 'gpu1.crt'])
      expect(statSync(join(desk.stateDir, 'lxd', file)).mode & 0o777).toBe(0o600)
    expect(await desk.json('node', 'list')).toMatchObject([{ name: 'gpu1', server: expect.stringContaining('LXD') }])
    expect((await desk.berth(['node', 'check', 'gpu1'])).code).toBe(0)
  })

  it('finds the certificate changed', async () => {
    const pin = join(desk.stateDir, 'lxd/gpu1.crt')
    rmSync(pin)
    writeFileSync(pin, readFileSync(join(desk.stateDir, 'lxd/client.crt')), { mode: 0o600 })
    const found = (await examine(desk)).find(({ check }) => check === 'lxd')
    expect(found).toMatchObject({ level: 'fault', text: expect.stringContaining('another certificate') })
    expect(found?.mend).toContain('berth node trust gpu1')
  })
})
