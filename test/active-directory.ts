import { spawn, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { installPackages } from './lab/packages.ts'
import { documentedExample } from './documented.ts'
import { run } from './rig.ts'

export const DOMAIN = 'ad.lab.example'
export const BASE = 'DC=ad,DC=lab,DC=example'
const ADMIN_PASSWORD = 'Adm1n of a test'

export interface AccountOptions {
  readonly cn?: string
  readonly ou?: string
  readonly groups?: readonly string[]
  readonly attributes?: Readonly<Record<string, string>>
}

/**
 * A real Samba as a domain controller of its own, in a private directory, on an address of loopback that no other test has: its
 * LDAP listens on 389 and 636 and nowhere else. It alone of the domain's services runs.
 */
export class ActiveDirectory implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'berth-ad-'))
  readonly address = `127.${randomInt(1, 255)}.${randomInt(256)}.${randomInt(1, 255)}`
  readonly people = `OU=People,${BASE}`
  readonly group = `CN=gpu,OU=Groups,${BASE}`
  #process: ChildProcess | undefined

  static async start(): Promise<ActiveDirectory> {
    await installPackages(line => console.log(line), ['samba-ad-dc', 'samba-ad-provision', 'ldap-utils'])
    const ad = new ActiveDirectory()
    try {
      await ad.#makeCertificate()
      await ad.#provision()
      await ad.up()
      await ad.ldif(TREE)
      await ad.addAccount('berth', { ou: `CN=Users,${BASE}` })
      writeFileSync(join(ad.directory, 'service-password'), `${passwordOf('berth')}\n`, { mode: 0o600 })
      return ad
    } catch (error) {
      await ad[Symbol.asyncDispose]()
      throw error
    }
  }

  get ca(): string {
    return join(this.directory, 'cert.pem')
  }

  dn(cn: string): string {
    return `CN=${cn},${this.people}`
  }

  /** `ldap` of berth.yaml, as docs/web.md has it for Active Directory. */
  config(changes: Record<string, unknown> = {}): Record<string, unknown> {
    const { ldap } = parse(documentedExample('yaml', 'sAMAccountName')) as { ldap: Record<string, unknown> }
    return {
      ...ldap,
      url: `ldaps://${this.address}`,
      ca: this.ca,
      bindPasswordFile: join(this.directory, 'service-password'),
      ...changes
    }
  }

  /** An enabled account whose password is `passwordOf(name)`; `cn` as it stands in a DN, escaped. */
  async addAccount(
    name: string,
    { cn = name, ou = this.people, groups = [], attributes = {} }: AccountOptions = {}
  ): Promise<void> {
    const dn = `CN=${cn},${ou}`
    const all = {
      userPrincipalName: `${name}@${DOMAIN}`,
      userAccountControl: '512',
      displayName: `The ${name}`,
      mail: `${name}@lab.example`,
      ...attributes
    }
    await this.ldif(`dn:: ${base64(dn)}
changetype: add
objectClass: user
sAMAccountName: ${name}
unicodePwd:: ${Buffer.from(`"${passwordOf(name)}"`, 'utf16le').toString('base64')}
${Object.entries(all)
  .map(([attribute, value]) => `${attribute}:: ${base64(value)}`)
  .join('\n')}
`)
    for (const group of groups) await this.setInGroup(group, dn, true)
  }

  async setInGroup(group: string, dn: string, isIn: boolean): Promise<void> {
    await this.modify(`CN=${group},OU=Groups,${BASE}`, `${isIn ? 'add' : 'delete'}: member\nmember:: ${base64(dn)}`)
  }

  /** `change` as in LDIF below `changetype: modify` (ldif(5)). */
  async modify(dn: string, change: string): Promise<void> {
    await this.ldif(`dn:: ${base64(dn)}\nchangetype: modify\n${change}\n`)
  }

  /** As Administrator. */
  async ldif(ldif: string): Promise<void> {
    const login = ['-x', '-D', `administrator@${DOMAIN}`, '-w', ADMIN_PASSWORD]
    const ran = await run(['ldapmodify', '-H', `ldaps://${this.address}`, ...login], {
      input: ldif,
      env: { ...process.env, LDAPTLS_CACERT: this.ca }
    })
    if (ran.code !== 0) throw new Error(`ldapmodify: ${ran.stderr}\n${ldif}`)
  }

  async up(): Promise<void> {
    const log = join(this.directory, 'log')
    const config = `--configfile=${join(this.directory, 'etc/smb.conf')}`
    this.#process = spawn('samba', ['--interactive', '--model=single', config, `--log-basename=${log}`], {
      stdio: 'ignore'
    })
    const env = { ...process.env, LDAPTLS_CACERT: this.ca }
    for (let attempt = 0; attempt < 300; attempt++) {
      const asked = [
        'ldapsearch',
        '-x',
        '-LLL',
        '-H',
        `ldaps://${this.address}`,
        '-s',
        'base',
        '-b',
        '',
        'isSynchronized'
      ]
      if ((await run(asked, { env })).stdout.includes('TRUE')) return
      await sleep(200)
    }
    throw new Error(`samba does not answer; see ${log}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process
    if (child && child.exitCode === null) {
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await ended
    }
    rmSync(this.directory, { recursive: true, force: true })
  }

  async #provision(): Promise<void> {
    const at = (name: string) => join(this.directory, name)
    mkdirSync(at('log'))
    const settings = [
      `interfaces=${this.address}/8`,
      'bind interfaces only=yes',
      'server services=ldap',
      `tls certfile=${at('cert.pem')}`,
      `tls keyfile=${at('key.pem')}`,
      `tls cafile=${at('cert.pem')}`,
      'ldb:nosync=true'
    ]
    const made = await run([
      ...['samba-tool', 'domain', 'provision', `--targetdir=${this.directory}`, `--realm=${DOMAIN.toUpperCase()}`],
      ...['--domain=AD', '--host-name=dc1', `--host-ip=${this.address}`, '--server-role=dc', '--dns-backend=NONE'],
      ...[`--adminpass=${ADMIN_PASSWORD}`, ...settings.map(setting => `--option=${setting}`)]
    ])
    if (made.code !== 0) throw new Error(made.stderr)
  }

  async #makeCertificate(): Promise<void> {
    const files = ['-keyout', join(this.directory, 'key.pem'), '-out', this.ca]
    const made = await run([
      ...[
        'openssl',
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2'
      ],
      ...['-subj', `/CN=dc1.${DOMAIN}`, '-addext', `subjectAltName=IP:${this.address}`, ...files]
    ])
    if (made.code !== 0) throw new Error(made.stderr)
  }
}

/** As the domain wants it: long, and of several kinds of letters. */
export const passwordOf = (name: string): string => `Secret 0f ${name}`

const base64 = (text: string): string => Buffer.from(text).toString('base64')

const TREE = `dn: OU=People,${BASE}
changetype: add
objectClass: organizationalUnit

dn: OU=Guests,${BASE}
changetype: add
objectClass: organizationalUnit

dn: OU=Groups,${BASE}
changetype: add
objectClass: organizationalUnit

dn: CN=physics,OU=Groups,${BASE}
changetype: add
objectClass: group
sAMAccountName: physics

dn: CN=gpu,OU=Groups,${BASE}
changetype: add
objectClass: group
sAMAccountName: gpu
member: CN=physics,OU=Groups,${BASE}
`
