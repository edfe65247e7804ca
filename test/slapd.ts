import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { installPackages } from './lab/packages.ts'
import { freePort } from './free-port.ts'
import { run } from './rig.ts'

const BASE = 'dc=lab,dc=example'
const ROOT_DN = `cn=root,${BASE}`
const ROOT_PASSWORD = 'root of the directory'
const SERVICE_DN = `cn=berth,${BASE}`
const SERVICE_PASSWORD = 'looks people up'

export interface PersonOptions {
  readonly password?: string
  readonly cn?: string
  readonly mail?: string
  /** In the group cn=gpu; true unless told. */
  readonly inGroup?: boolean
}

/** A real OpenLDAP of a test's own, in a private directory, on loopback: ldap:// with StartTLS, and ldaps://. */
export class Slapd implements AsyncDisposable {
  readonly directory: string
  readonly port: number
  readonly tlsPort: number
  #process: ChildProcess | undefined

  private constructor(directory: string, port: number, tlsPort: number) {
    this.directory = directory
    this.port = port
    this.tlsPort = tlsPort
  }

  static async start(): Promise<Slapd> {
    await installPackages(line => console.log(line), ['slapd', 'ldap-utils'])
    const directory = mkdtempSync(join(tmpdir(), 'berth-slapd-'))
    const slapd = new Slapd(directory, await freePort('127.0.0.1'), await freePort('127.0.0.1'))
    try {
      await slapd.#makeCertificates()
      slapd.#configure()
      await slapd.up()
      await slapd.#tool('ldapadd', TREE)
      return slapd
    } catch (error) {
      await slapd[Symbol.asyncDispose]()
      throw error
    }
  }

  readonly base = `ou=people,${BASE}`
  readonly group = `cn=gpu,ou=groups,${BASE}`
  readonly serviceDn = SERVICE_DN

  get ca(): string {
    return join(this.directory, 'ca.pem')
  }

  dn(uid: string): string {
    return `uid=${uid},${this.base}`
  }

  /** `ldap` of berth.yaml: LDAPS, a service account, a required group. */
  config(changes: Record<string, unknown> = {}): Record<string, unknown> {
    return {
      url: `ldaps://localhost:${this.tlsPort}`,
      ca: this.ca,
      bindDn: SERVICE_DN,
      bindPasswordFile: join(this.directory, 'service-password'),
      base: this.base,
      userFilter: '(&(objectClass=inetOrgPerson)(uid={{login}}))',
      requiredGroup: this.group,
      ...changes
    }
  }

  /** One person, whose password is `secret of UID` unless told. */
  async addPerson(
    uid: string,
    { password = `secret of ${uid}`, cn = uid, mail = 'somebody@lab.example', inGroup = true }: PersonOptions = {}
  ): Promise<void> {
    const base64 = (text: string) => Buffer.from(text).toString('base64')
    await this.#tool(
      'ldapadd',
      `dn:: ${base64(this.dn(uid))}
objectClass: inetOrgPerson
objectClass: shadowAccount
uid:: ${base64(uid)}
cn:: ${base64(cn)}
sn: person
mail: ${mail}
userPassword:: ${base64(password)}
`
    )
    if (inGroup) await this.setInGroup(uid, true)
  }

  async setInGroup(uid: string, inGroup: boolean): Promise<void> {
    await this.modify(this.group, `${inGroup ? 'add' : 'delete'}: member\nmember: ${this.dn(uid)}`)
  }

  /** `change` as in LDIF below `changetype: modify` (ldif(5)). */
  async modify(dn: string, change: string): Promise<void> {
    await this.#tool('ldapmodify', `dn: ${dn}\nchangetype: modify\n${change}\n`, ['-e', 'relax'])
  }

  async rename(uid: string, newUid: string): Promise<void> {
    await this.#tool('ldapmodify', `dn: ${this.dn(uid)}\nchangetype: modrdn\nnewrdn: uid=${newUid}\ndeleteoldrdn: 1\n`)
  }

  async removePerson(uid: string): Promise<void> {
    await this.#tool('ldapmodify', `dn: ${this.dn(uid)}\nchangetype: delete\n`)
  }

  /** Starts the server, again after `down`. */
  async up(): Promise<void> {
    const urls = `ldap://127.0.0.1:${this.port} ldaps://127.0.0.1:${this.tlsPort}`
    this.#process = spawn('slapd', ['-d', '0', '-f', join(this.directory, 'slapd.conf'), '-h', urls], {
      stdio: 'ignore'
    })
    for (let attempt = 0; attempt < 100; attempt++) {
      if ((await run(['ldapwhoami', '-x', '-H', `ldap://127.0.0.1:${this.port}`])).code === 0) return
      await sleep(100)
    }
    throw new Error('slapd does not answer')
  }

  async down(): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (!child || child.exitCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    await ended
  }

  /** Accepts connections and never answers (SIGSTOP), until `thaw`. */
  async freeze(): Promise<void> {
    this.#process?.kill('SIGSTOP')
    // One thread takes the signal and stops the others: on a busy machine they go on answering for a moment.
    const tasks = `/proc/${this.#process?.pid}/task`
    const isStopped = (task: string) => /\) T /.test(readFileSync(join(tasks, task, 'stat'), 'utf8'))
    while (!readdirSync(tasks).every(isStopped)) await sleep(10)
  }

  thaw(): void {
    this.#process?.kill('SIGCONT')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.thaw()
    await this.down()
    rmSync(this.directory, { recursive: true, force: true })
  }

  async #tool(tool: string, ldif: string, more: string[] = []): Promise<void> {
    const url = `ldap://127.0.0.1:${this.port}`
    const ran = await run([tool, '-x', '-H', url, '-D', ROOT_DN, '-w', ROOT_PASSWORD, ...more], { input: ldif })
    if (ran.code !== 0) throw new Error(`${tool}: ${ran.stderr}\n${ldif}`)
  }

  async #makeCertificates(): Promise<void> {
    const at = (name: string) => join(this.directory, name)
    const openssl = async (...words: string[]) => {
      const ran = await run(['openssl', ...words])
      if (ran.code !== 0) throw new Error(ran.stderr)
    }
    const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    for (const name of ['ca', 'other-ca']) {
      const files = ['-keyout', at(`${name}.key`), '-out', at(`${name}.pem`)]
      await openssl('req', '-x509', ...newKey, ...files, '-days', '2', '-subj', `/CN=${name} of a test`)
    }
    await openssl('req', ...newKey, '-keyout', at('server.key'), '-out', at('server.csr'), '-subj', '/CN=directory')
    // For the name alone: by its address the server must not be believed.
    writeFileSync(at('names'), 'subjectAltName=DNS:localhost')
    const signedBy = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial']
    await openssl(
      'x509',
      '-req',
      '-in',
      at('server.csr'),
      ...signedBy,
      '-days',
      '2',
      '-extfile',
      at('names'),
      '-out',
      at('server.pem')
    )
  }

  #configure(): void {
    const at = (name: string) => join(this.directory, name)
    mkdirSync(at('data'))
    writeFileSync(at('service-password'), `${SERVICE_PASSWORD}\n`, { mode: 0o600 })
    writeFileSync(
      at('slapd.conf'),
      `${['core', 'cosine', 'nis', 'inetorgperson'].map(name => `include /etc/ldap/schema/${name}.schema`).join('\n')}
# What a 389 Directory Server knows its entries by, and shows where entryUUID is not to be seen.
attributetype ( 2.16.840.1.113730.3.1.542 NAME 'nsUniqueId' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile ${at('slapd.pid')}
TLSCACertificateFile ${at('ca.pem')}
TLSCertificateFile ${at('server.pem')}
TLSCertificateKeyFile ${at('server.key')}
# What a server for everybody does when told to: a bind without a password then succeeds.
allow bind_anon_dn bind_anon_cred
database mdb
directory ${at('data')}
suffix "${BASE}"
rootdn "${ROOT_DN}"
rootpw "${ROOT_PASSWORD}"
dbnosync
overlay ppolicy
access to filter="(description=389)" attrs=entryUUID by * none
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
`
    )
  }
}

const TREE = `dn: ${BASE}
objectClass: dcObject
objectClass: organization
o: lab
dc: lab

dn: ${SERVICE_DN}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: berth
userPassword: ${SERVICE_PASSWORD}

dn: ou=people,${BASE}
objectClass: organizationalUnit
ou: people

dn: ou=groups,${BASE}
objectClass: organizationalUnit
ou: groups

dn: cn=gpu,ou=groups,${BASE}
objectClass: groupOfNames
cn: gpu
member: ${SERVICE_DN}
`
