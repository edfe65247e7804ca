import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { parse as parseYaml, stringify } from 'yaml'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { parseConfig, type LdapConfig } from '../../src/config.ts'
import { openDatabase, type Database } from '../../src/db/open.ts'
import { DomainAccounts } from '../../src/directory/domain-accounts.ts'
import { Ldap } from '../../src/directory/ldap.ts'
import { SignInLinks } from '../../src/directory/sign-in-links.ts'
import { type User, Users } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
import { documentedExample } from '../documented.ts'
import { Slapd } from '../slapd.ts'

let slapd: Slapd
let directory: string
let database: Database
let users: Users
let accounts: DomainAccounts
let logged: string[]
let gone: string[]
let back: string[]

beforeAll(async () => {
  slapd = await Slapd.start()
  await slapd.addPerson('alice', { cn: 'Alice <script>', mail: 'alice@lab.example' })
  await slapd.addPerson('bob')
  await slapd.addPerson('guest', { inGroup: false })
  await slapd.addPerson('Zoë.Müller', { password: 'pässwörd 密码' })
  await slapd.addPerson('2020carol')
  await slapd.addPerson('root')
  await slapd.addPerson('od*d)(uid=name')
})
afterAll(() => slapd[Symbol.asyncDispose]())

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-ldap-'))
  database = openDatabase(join(directory, 'berth.sqlite'))
  users = new Users(database, { from: 22000, to: 22099, exclude: [] })
  accounts = new DomainAccounts(database, users)
  logged = []
  gone = []
  back = []
})
afterEach(() => {
  database.close()
  rmSync(directory, { recursive: true })
})

function parse(changes: Record<string, unknown> = {}): LdapConfig {
  const text = stringify({
    ldap: slapd.config(changes),
    nodes: { gpu1: { address: '192.0.2.1', managePort: 2222, lxd: 'unix:///nowhere' } },
    templates: [{ name: 'debian', image: 'debian' }]
  })
  return parseConfig(text, 'berth.yaml').ldap as LdapConfig
}

const joined = (
  changes: Record<string, unknown> = {},
  onGone = async (user: User): Promise<void> => void gone.push(user.name)
): Ldap =>
  new Ldap({
    config: parse(changes),
    accounts,
    users,
    log: pino({ level: 'debug' }, { write: (line: string) => void logged.push(line) }),
    onGone,
    onBack: async user => void back.push(user.name)
  })

const failure = async (attempt: Promise<unknown>): Promise<string> => {
  try {
    await attempt
    return 'let in'
  } catch (error) {
    if (error instanceof UserError) return error.reason
    throw error
  }
}

const bindTemplate = () => ({
  bindDn: undefined,
  bindPasswordFile: undefined,
  bindTemplate: `uid={{login}},${slapd.base}`,
  recheck: 'off'
})

/** How long the attempts took, and how each ended. */
async function timed(attempt: () => Promise<unknown>): Promise<{ reason: string; tookMs: number }> {
  const startedAtMs = performance.now()
  const reason = await failure(attempt())
  return { reason, tookMs: performance.now() - startedAtMs }
}

describe('signing in', () => {
  it('makes the user with a fixed port at the first time, and finds it again', async () => {
    const ldap = joined()
    const first = await ldap.authenticate('alice', 'secret of alice')
    expect(first).toMatchObject({ displayName: 'Alice <script>', email: 'alice@lab.example' })
    expect(first.user).toMatchObject({ name: 'alice', fixedPort: 22000, state: 'enabled' })
    expect((await ldap.authenticate(' ALICE ', 'secret of alice')).user).toEqual(first.user)
    expect(users.list()).toHaveLength(1)
  })

  it.each([
    ['StartTLS', () => ({ url: `ldap://localhost:${slapd.port}`, startTls: true })],
    ['loopback in the clear', () => ({ url: `ldap://127.0.0.1:${slapd.port}`, ca: undefined })],
    ['a bind template', () => bindTemplate()]
  ])('works with %s', async (_, changes) => {
    const ldap = joined(changes())
    expect((await ldap.authenticate('bob', 'secret of bob')).user.name).toBe('bob')
    expect(await failure(ldap.authenticate('bob', 'secret of alice'))).toBe('sign-in-failed')
  })

  it('works as docs/web.md has it', async () => {
    const example = parseYaml(documentedExample('yaml', '(uid={{login}})')) as { ldap: Record<string, unknown> }
    const { url, ca, bindPasswordFile } = slapd.config()
    const ldap = joined({ ...example.ldap, url, ca, bindPasswordFile })
    expect((await ldap.authenticate('bob', 'secret of bob')).user.name).toBe('bob')
    expect(await failure(ldap.authenticate('guest', 'secret of guest'))).toBe('not-allowed')
  })

  it('takes names and passwords of all letters', async () => {
    const { user } = await joined().authenticate('Zoë.Müller', 'pässwörd 密码')
    expect(user.name).toBe('zoe-muller')
    expect(accounts.of(user)?.login).toBe('Zoë.Müller')
  })

  it('gives names that are none here the nearest free one, and keeps them apart', async () => {
    users.add('zoe-muller')
    const ldap = joined()
    const names = []
    for (const [login, password] of [
      ['Zoë.Müller', 'pässwörd 密码'],
      ['2020carol', 'secret of 2020carol'],
      ['root', 'secret of root']
    ] as const)
      names.push((await ldap.authenticate(login, password)).user.name)
    expect(names).toEqual(['zoe-muller-2', 'u2020carol', 'root-2'])
    expect((await ldap.authenticate('zoë.müller', 'pässwörd 密码')).user.name).toBe('zoe-muller-2')
  })

  it('joins a user of the very same name, or not, as adoptUsers says', async () => {
    users.add('alice')
    users.add('bob')
    expect((await joined().authenticate('alice', 'secret of alice')).user.name).toBe('alice')
    const other = await joined({ adoptUsers: false }).authenticate('bob', 'secret of bob')
    expect(other.user.name).toBe('bob-2')
  })

  it('tells a right password outside the group what is missing, and a wrong one nothing', async () => {
    const ldap = joined()
    expect(await failure(ldap.authenticate('guest', 'secret of guest'))).toBe('not-allowed')
    expect(await failure(ldap.authenticate('guest', 'wrong'))).toBe('sign-in-failed')
    expect(users.list()).toEqual([])
  })

  it('refuses a user whom the admin has disabled', async () => {
    users.setState(users.add('alice'), 'disabled')
    expect(await failure(joined().authenticate('alice', 'secret of alice'))).toBe('user-disabled')
  })
})

describe('attacks on signing in', () => {
  it('an empty password never reaches a directory that would take it', async () => {
    const attempts: string[] = []
    await using front = await Front.before(slapd.tlsPort, () => attempts.push('connected'))
    const ldap = joined({ url: `ldaps://localhost:${front.port}` })
    expect(await failure(ldap.authenticate('alice', ''))).toBe('sign-in-failed')
    expect(attempts).toEqual([])
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('let in')
    expect(attempts).not.toEqual([])
  })

  it('a name that would change the filter, or none at all, is nobody', async () => {
    const ldap = joined()
    const names = [
      '',
      '*',
      'al*',
      'alice)(objectClass=*',
      '*)(uid=*))(|(uid=*',
      'alice)(|(uid=bob',
      'x)(|(uid=alice',
      'alice\\2a',
      'alice\u0000',
      'EXTERNAL',
      slapd.dn('alice'),
      'a'.repeat(100_000)
    ]
    const ended = await Promise.all(names.map(name => failure(ldap.authenticate(name, 'secret of alice'))))
    expect(ended).toEqual(names.map(() => 'sign-in-failed'))
  })

  it('a name full of filter signs is its owner, and nobody else', async () => {
    const { user } = await joined().authenticate('od*d)(uid=name', 'secret of od*d)(uid=name')
    expect(accounts.of(user)?.login).toBe('od*d)(uid=name')
  })

  it('a name that would change the DN of a bind template is nobody', async () => {
    const ldap = joined(bindTemplate())
    const names = [
      'alice,ou=people,dc=lab,dc=example',
      'alice+cn=alice',
      'EXTERNAL',
      'PLAIN',
      'alice"',
      '\\61lice',
      'bob,uid=alice'
    ]
    const ended = await Promise.all(names.map(name => failure(ldap.authenticate(name, 'secret of alice'))))
    expect(ended).toEqual(names.map(() => 'sign-in-failed'))
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('let in')
  })

  it('unknown names, wrong and empty passwords are refused in the same words and time', async () => {
    const ldap = joined()
    const answers = await Promise.all(
      [
        () => ldap.authenticate('nobody-here', 'wrong'),
        () => ldap.authenticate('alice', 'wrong'),
        () => ldap.authenticate('alice', ''),
        () => ldap.authenticate('guest', 'wrong')
      ].map(timed)
    )
    expect(answers.map(({ reason }) => reason)).toEqual(Array(4).fill('sign-in-failed'))
    for (const { tookMs } of answers) {
      expect(tookMs).toBeGreaterThan(990)
      expect(tookMs).toBeLessThan(1300)
    }
  })

  it('a flood is refused beyond a bound, and whoever comes after it is served', async () => {
    const ldap = joined()
    const answers = await Promise.all(Array.from({ length: 300 }, () => failure(ldap.authenticate('alice', 'wrong'))))
    expect(new Set(answers)).toEqual(new Set(['sign-in-failed', 'busy']))
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('let in')
  })

  it('never logs a name or password that was typed', async () => {
    const ldap = joined()
    await failure(ldap.authenticate('a password typed as name', 'wrong password'))
    await failure(joined({ url: 'ldaps://localhost:1' }).authenticate('alice', 'right or wrong'))
    expect(logged.join('')).toContain('ECONNREFUSED')
    expect(logged.join('')).not.toMatch(/typed as name|wrong/)
  })
})

describe('the way to the directory', () => {
  it.each([
    ['an authority that did not sign it', () => ({ ca: join(slapd.directory, 'other-ca.pem') })],
    ['another name', () => ({ url: `ldaps://127.0.0.1:${slapd.tlsPort}` })],
    ['another name, by StartTLS', () => ({ url: `ldap://127.0.0.1:${slapd.port}`, startTls: true })],
    [
      'an authority that did not sign it, by StartTLS',
      () => ({ url: `ldap://localhost:${slapd.port}`, startTls: true, ca: join(slapd.directory, 'other-ca.pem') })
    ]
  ])('is refused when the certificate is for %s', async (_, changes) => {
    expect(await failure(joined(changes()).authenticate('alice', 'secret of alice'))).toBe('directory-unavailable')
  })

  it('never sends a password in the clear when the connection breaks after StartTLS', async () => {
    const seen: Buffer[] = []
    let connections = 0
    // Lets StartTLS and the handshake through, then hangs up at the first bytes after it, in the hope of another try in the clear.
    await using front = await Front.before(slapd.port, (client, server) => {
      connections++
      let messages = 0
      client.on('data', (data: Buffer) => {
        seen.push(data)
        if (data[0] === 0x17 && ++messages > 0) {
          client.destroy()
          server.destroy()
        }
      })
    })
    const ldap = joined({ url: `ldap://localhost:${front.port}`, startTls: true, timeout: '1s' })
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('directory-unavailable')
    expect(connections).toBe(1)
    expect(Buffer.concat(seen).includes('looks people up')).toBe(false)
  })

  it('a directory that is down or silent is said to be so, in time, and is used again when back', async () => {
    const ldap = joined({ timeout: '1s' })
    await slapd.down()
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('directory-unavailable')
    await slapd.up()
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('let in')
    await slapd.freeze()
    try {
      for (const changes of [{}, { url: `ldap://localhost:${slapd.port}`, startTls: true }]) {
        const { reason, tookMs } = await timed(() =>
          joined({ timeout: '1s', ...changes }).authenticate('alice', 'secret of alice')
        )
        expect(reason).toBe('directory-unavailable')
        expect(tookMs).toBeLessThan(3000)
      }
    } finally {
      slapd.thaw()
    }
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('let in')
  })

  it("a service account that is refused is the admin's affair, and nobody is taken for unknown", async () => {
    const wrong = join(directory, 'wrong')
    writeFileSync(wrong, 'wrong')
    await joined().authenticate('alice', 'secret of alice')
    const ldap = joined({ bindPasswordFile: wrong })
    expect(await failure(ldap.authenticate('alice', 'secret of alice'))).toBe('directory-unavailable')
    await expect(ldap.recheck()).rejects.toMatchObject({ reason: 'directory-unavailable' })
  })
})

describe('what the directory changes', () => {
  const signIn = async (ldap: Ldap, ...logins: string[]) => {
    for (const login of logins) await ldap.authenticate(login, `secret of ${login}`)
  }

  it('name and e-mail follow', async () => {
    await slapd.addPerson('dora', { cn: 'Dora', mail: 'dora@old.example' })
    const ldap = joined()
    await signIn(ldap, 'dora')
    await slapd.modify(slapd.dn('dora'), 'replace: cn\ncn: Dora the New\n-\nreplace: mail\nmail: dora@new.example')
    await ldap.recheck()
    expect(accounts.of(users.need('dora'))).toMatchObject({ displayName: 'Dora the New', email: 'dora@new.example' })
  })

  it('what could not be done about somebody gone is done later, and then no more', async () => {
    await slapd.addPerson('olga')
    const tried: string[] = []
    const ldap = joined({}, async user => {
      tried.push(user.name)
      if (tried.length === 1) throw new Error('gpu1 is away')
    })
    await signIn(ldap, 'olga', 'alice')
    await slapd.setInGroup('olga', false)
    for (let pass = 0; pass < 3; pass++) await ldap.recheck()
    expect(tried).toEqual(['olga', 'olga'])
    expect(users.need('olga').state).toBe('disabled')
    expect(logged.join('')).toContain('gpu1 is away')
    // After a restart nobody knows how far it came.
    await joined().recheck()
    expect(gone).toEqual(['olga'])
  })

  it('somebody renamed there stays the same user here, and whoever gets the old name is another', async () => {
    await slapd.addPerson('erin')
    const ldap = joined()
    await signIn(ldap, 'erin')
    await slapd.setInGroup('erin', false)
    await slapd.rename('erin', 'erin.moved')
    await slapd.setInGroup('erin.moved', true)
    await slapd.addPerson('erin', { password: 'secret of the new erin' })
    const newcomer = await ldap.authenticate('erin', 'secret of the new erin')
    expect(newcomer.user.name).toBe('erin-2')
    const { user } = await ldap.authenticate('erin.moved', 'secret of erin')
    expect(user.name).toBe('erin')
    await ldap.recheck()
    expect(accounts.of(user)?.login).toBe('erin.moved')
    expect(gone).toEqual([])
  })

  it('so does somebody renamed in a 389, which knows entries by another id, also when it shows entryUUID later', async () => {
    await slapd.addPerson('kate')
    await slapd.modify(
      slapd.dn('kate'),
      `add: objectClass
objectClass: extensibleObject
-
add: description
description: 389
-
add: nsUniqueId
nsUniqueId: 39b08e01-e6e411f1-b389a725-1122ec65`
    )
    const ldap = joined({ requiredGroup: undefined })
    await signIn(ldap, 'kate', 'alice')
    const { id } = users.need('kate')
    await slapd.rename('kate', 'kate.jones')
    await ldap.recheck()
    expect(gone).toEqual([])
    expect((await ldap.authenticate('kate.jones', 'secret of kate')).user.id).toBe(id)
    await slapd.modify(slapd.dn('kate.jones'), 'delete: description')
    expect((await ldap.authenticate('kate.jones', 'secret of kate')).user.id).toBe(id)
  })

  it.each([
    ['removed', async () => slapd.removePerson('frank')],
    ['out of the group', async () => slapd.setInGroup('frank', false)],
    [
      'locked by ppolicy',
      async () => slapd.modify(slapd.dn('frank'), 'add: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z')
    ],
    ['expired', async () => slapd.modify(slapd.dn('frank'), 'add: shadowExpire\nshadowExpire: 1')]
  ])('somebody %s there is shut out here, and those who stay are not', async (_, change) => {
    await slapd.removePerson('frank').catch(() => {})
    await slapd.modify(slapd.group, `delete: member\nmember: ${slapd.dn('frank')}`).catch(() => {})
    await slapd.addPerson('frank')
    const ldap = joined()
    await signIn(ldap, 'frank', 'alice')
    const frank = users.need('frank')
    const link = new SignInLinks(database, users, accounts).create(frank)
    await change()
    await ldap.recheck()
    await ldap.recheck()
    expect(gone).toEqual(['frank'])
    expect(users.need('frank').state).toBe('disabled')
    expect(users.need('alice').state).toBe('enabled')
    expect(new SignInLinks(database, users, accounts).peek(link.secret)).toBe(false)
    expect(['sign-in-failed', 'not-allowed']).toContain(await failure(ldap.authenticate('frank', 'secret of frank')))
  })

  it('somebody who is back is let in again, unless the admin disabled them as well', async () => {
    await slapd.addPerson('gina')
    const ldap = joined()
    await signIn(ldap, 'gina', 'alice')
    await slapd.setInGroup('gina', false)
    await ldap.recheck()
    expect(users.setState(users.need('gina'), 'enabled').state).toBe('disabled')
    await slapd.setInGroup('gina', true)
    await ldap.recheck()
    expect(back).toEqual(['gina'])
    expect(users.need('gina').state).toBe('enabled')
    await slapd.setInGroup('gina', false)
    await ldap.recheck()
    users.setState(users.need('gina'), 'disabled')
    await slapd.setInGroup('gina', true)
    await ldap.recheck()
    expect(users.need('gina').state).toBe('disabled')
  })

  it('with whenGone: web only the pages are closed', async () => {
    await slapd.addPerson('hugo')
    const ldap = joined({ whenGone: 'web' })
    await signIn(ldap, 'hugo', 'alice')
    const hugo = users.need('hugo')
    await slapd.removePerson('hugo')
    await ldap.recheck()
    expect(users.need('hugo').state).toBe('enabled')
    expect(() => new SignInLinks(database, users, accounts).create(hugo)).toThrow(/does not let you in/)
    expect(await failure(Promise.resolve().then(() => accounts.refuseGone(hugo)))).toBe('user-disabled')
  })

  it('an account made anew under the old name gets its user back, where names are persons', async () => {
    await slapd.addPerson('ida')
    const ldap = joined()
    await signIn(ldap, 'ida', 'alice')
    await slapd.removePerson('ida')
    await slapd.addPerson('ida', { inGroup: false })
    await signIn(ldap, 'ida')
    expect(users.list().map(({ name }) => name)).toEqual(['alice', 'ida'])
    await slapd.removePerson('ida')
    await slapd.addPerson('ida', { inGroup: false })
    const apart = await joined({ adoptUsers: false }).authenticate('ida', 'secret of ida')
    expect(apart.user.name).toBe('ida-2')
  })

  it('nobody is shut out when the directory shows nobody at all, or is down', async () => {
    const ldap = joined()
    await signIn(ldap, 'alice', 'bob')
    await joined({ base: 'ou=groups,dc=lab,dc=example' }).recheck()
    expect(logged.join('')).toContain('shows none of its people')
    await slapd.down()
    await expect(ldap.recheck()).rejects.toMatchObject({ reason: 'directory-unavailable' })
    await slapd.up()
    expect(gone).toEqual([])
    expect(users.need('alice').state).toBe('enabled')
  })

  it('nobody is shut out by a connection that breaks in the middle', async () => {
    await using front = await Front.before(slapd.port, (client, server) => {
      server.on('data', (data: Buffer) => {
        if (!data.includes(slapd.dn('alice'))) return
        client.end()
        server.end()
      })
    })
    await signIn(joined(), 'alice', 'bob', '2020carol')
    const ldap = joined({ url: `ldap://127.0.0.1:${front.port}`, timeout: '1s' })
    await expect(ldap.recheck()).rejects.toMatchObject({ reason: 'directory-unavailable' })
    expect(gone).toEqual([])
  })

  it('is seen within `recheck` without anybody asking', async () => {
    await slapd.addPerson('jane')
    const ldap = joined({ recheck: '2s' })
    await signIn(ldap, 'jane', 'alice')
    ldap.startRechecking()
    try {
      await slapd.removePerson('jane')
      await expect.poll(() => gone, { timeout: 2000 }).toEqual(['jane'])
    } finally {
      await ldap.stopRechecking()
    }
  })
})

/** A TCP proxy before the directory, to look at what passes, or to break it. */
class Front implements AsyncDisposable {
  readonly #server: Server
  readonly #sockets: Socket[] = []

  private constructor(port: number, onConnection: (client: Socket, server: Socket) => void) {
    this.#server = createServer(client => {
      const server = connect(port, '127.0.0.1')
      for (const socket of [client, server]) {
        this.#sockets.push(socket)
        socket.on('error', () => {})
      }
      onConnection(client, server)
      client.pipe(server).pipe(client)
    })
  }

  static async before(port: number, onConnection: (client: Socket, server: Socket) => void): Promise<Front> {
    const front = new Front(port, onConnection)
    front.#server.listen(0, '127.0.0.1')
    await once(front.#server, 'listening')
    return front
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }
}
