import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { expect } from 'vitest'
import { parse, stringify } from 'yaml'
import { z } from 'zod'
import { apiPath } from '../../src/lxd/api-path.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { parseTemporaryName } from '../../src/snapshots/temporary-names.ts'
import { startRig, type Member, type Ran, type Rig, type RigOptions } from '../rig.ts'
import { KillProxy } from './kill-proxy.ts'

/** Which server all of it is tried on. */
export const SERVER = process.env['BERTH_CRASH_SERVER'] === 'incus' ? 'incus' : 'lxd'

const instancesSchema = z.array(z.looseObject({ name: z.string(), backups: z.array(z.unknown()).nullish() }))

export type Deed = 'snapshot' | 'recover' | 'rebuild' | 'undo'

/** One member's container, a daemon that may be killed, and what must be true whatever happened to them. */
export class Ship implements AsyncDisposable {
  readonly rig: Rig
  readonly alice: Member
  readonly proxy: KillProxy
  readonly #nas: string
  /** LXD itself, past the proxy. */
  readonly #lxd: LxdClient
  /** What /marker holds in the container that has the name. */
  #marker = ''
  /** What it holds in the snapshot that `recover` brings back. */
  #saved = ''
  /** What it holds in the container that `recover --undo` brings back. */
  #kept = ''
  #count = 0

  private constructor(rig: Rig, alice: Member, proxy: KillProxy, nas: string) {
    this.rig = rig
    this.alice = alice
    this.proxy = proxy
    this.#nas = nas
    this.#lxd = new LxdClient({ url: `unix://${rig.lab.lxdSocket}`, project: rig.project })
  }

  /** @param prepare what the server needs before there is a container */
  static async launch(options: RigOptions = {}, prepare: (rig: Rig) => Promise<void> = async () => {}): Promise<Ship> {
    const nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
    // `none`: the time goes into the calls that are struck at, not into packing.
    const snapshots = { dir: nas, compression: 'none', keepPerUser: 3 }
    const rig = await startRig({ ...options, config: { snapshots } })
    await prepare(rig)
    const proxy = await KillProxy.open(join(rig.directory, 'kill.socket'), rig.lab.lxdSocket)
    const config = parse(readFileSync(rig.configPath, 'utf8')) as { nodes: { gpu1: { lxd: string } } }
    config.nodes.gpu1.lxd = `unix://${proxy.path}`
    writeFileSync(rig.configPath, stringify(config))
    await rig.end()
    await rig.serve()
    const ship = new Ship(rig, await rig.addRunningMember('alice'), proxy, nas)
    await ship.mark()
    expect(await ship.begin('snapshot')).toMatchObject({ code: 0 })
    ship.#saved = ship.#marker
    // What is there must differ from what a recovery brings.
    expect(await ship.alice.manage()).toMatchObject({ code: 0 })
    await ship.mark()
    return ship
  }

  /** Writes what tells this container from all others, and stops it. */
  async mark(): Promise<void> {
    this.#marker = `marker ${++this.#count}`
    const marked = await this.alice.login(`echo ${this.#marker} | sudo tee /marker && sync`)
    expect(marked, marked.stderr).toMatchObject({ code: 0 })
    expect(await this.alice.manage('stop --timeout 30')).toMatchObject({ code: 0 })
  }

  /** Types the command with a token, to its end. */
  async begin(deed: Deed): Promise<Ran> {
    return this.alice.manage(await this.prepare(deed))
  }

  /** The whole line of the command, with a token. */
  async prepare(deed: Deed): Promise<string> {
    if (deed === 'undo') {
      if (this.#keptInstances().length === 0) {
        expect(await this.begin('rebuild')).toMatchObject({ code: 0 })
        await this.check('rebuild')
      }
      return 'recover --undo'
    }
    // Room for one more, always.
    const [oldest, ...others] = this.archives()
    if (deed === 'snapshot' && oldest !== undefined && others.length === 2) await this.#remove(others[0] as string)
    const { code, stdout, stderr } = await this.alice.manage(deed)
    expect(code, stderr).toBe(0)
    const token = tokenIn(stdout)
    if (deed === 'snapshot') return `snapshot ${token}`
    return deed === 'rebuild' ? `rebuild ${token} debian-12` : `recover ${token} ${oldest}`
  }

  /** The names of all archives, oldest first. */
  archives(): string[] {
    return this.#files()
      .filter(name => name.endsWith('.tar'))
      .sort()
  }

  /**
   * Waits until nothing is unresolved; then the container must be there under its name, whole, old or new, startable and
   * reachable with the known host keys, and nothing else be left. Marks it anew and stops it.
   */
  async check(deed: Deed): Promise<'old' | 'new'> {
    await expect.poll(() => this.#open(), { timeout: 180_000, interval: 500 }).toEqual([])
    const started = await this.alice.manage()
    expect(started, started.stderr + this.rig.log.slice(-20).join('\n')).toMatchObject({ code: 0 })
    const { code, stdout, stderr } = await this.alice.login('cat /marker 2>/dev/null; true')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const found = stdout.trim()
    const [isOld, isNew] = [found === this.#marker, deed !== 'snapshot' && found !== this.#marker]
    if (deed === 'recover' && isNew) expect(found).toBe(this.#saved)
    if (deed === 'rebuild' && isNew) expect(found).toBe('')
    if (deed === 'undo' && isNew) expect(found).toBe(this.#kept)
    expect(isOld || isNew, `${found} is neither old nor new`).toBe(true)
    if (isNew) this.#kept = this.#marker
    // A copy that LXD would not delete goes when the node is tidied, once a minute.
    await expect.poll(() => this.#strays(), { timeout: 120_000, interval: 500 }).toEqual([])
    this.#checkArchives()
    await this.mark()
    return isOld ? 'old' : 'new'
  }

  async #open(): Promise<unknown[]> {
    const { code, stdout, stderr } = await this.rig.berth('operations', '--json')
    expect(code, stderr).toBe(0)
    return JSON.parse(stdout) as unknown[]
  }

  /** Instances nobody needs, LXD's backups, and unfinished files. */
  async #strays(): Promise<string[]> {
    const instances = await this.#lxd.get(apiPath`/1.0/instances`, instancesSchema, { query: { recursion: 2 } })
    const kept = new Set(this.#keptInstances())
    expect(kept.size).toBeLessThanOrEqual(2)
    const names = instances.map(({ name }) => name).filter(name => name !== 'alice')
    const others = names.filter(name => parseTemporaryName(name)?.purpose !== 'Old' || !kept.has(name))
    const backups = instances.flatMap(({ name, backups: list }) => (list ?? []).map(() => `a backup of ${name}`))
    const partials = this.#files().filter(name => !name.endsWith('.tar'))
    const extra = names.length > 1 ? [`${names.length} kept`] : []
    return [...others, ...backups, ...partials, ...extra]
  }

  #keptInstances(): unknown[] {
    return this.#inDatabase('SELECT instance FROM kept_containers').map(row => row['instance'])
  }

  #files(): string[] {
    const directory = join(this.#nas, 'alice')
    return existsSync(directory) ? readdirSync(directory) : []
  }

  /** Each row has its file, each file its row. */
  #checkArchives(): void {
    const rows = this.#inDatabase('SELECT name FROM snapshots ORDER BY name').map(row => row['name'])
    expect(this.archives()).toEqual(rows)
  }

  async #remove(name: string): Promise<void> {
    const { stdout } = await this.alice.manage(`snapshots remove ${name}`)
    const removed = await this.alice.manage(`snapshots remove ${name} ${tokenIn(stdout)}`)
    expect(removed, removed.stderr).toMatchObject({ code: 0 })
  }

  #inDatabase(query: string): Record<string, unknown>[] {
    const database = new Sqlite(join(this.rig.directory, 'state/berth.sqlite'), { readonly: true, timeout: 5000 })
    try {
      return database.prepare<[], Record<string, unknown>>(query).all()
    } finally {
      database.close()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lxd.close()
    await this.rig[Symbol.asyncDispose]()
    await this.proxy[Symbol.asyncDispose]()
    rmSync(this.#nas, { recursive: true })
  }
}

function tokenIn(text: string): string {
  const token = /\b[0-9A-HJKMNP-TV-Z]{26}\b/.exec(text)?.[0]
  expect(token, text).toBeDefined()
  return token as string
}
