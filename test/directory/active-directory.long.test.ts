import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { type LdapConfig, parseConfig } from '../../src/config.ts'
import { type Database, openDatabase } from '../../src/db/open.ts'
import { DomainAccounts } from '../../src/directory/domain-accounts.ts'
import { Ldap } from '../../src/directory/ldap.ts'
import { Users } from '../../src/directory/users.ts'
import { UserError } from '../../src/errors.ts'
import { ActiveDirectory, BASE, DOMAIN, passwordOf } from '../active-directory.ts'

let ad: ActiveDirectory
let directory: string
let database: Database
let users: Users
let accounts: DomainAccounts
let gone: string[]
let back: string[]

beforeAll(async () => {
  ad = await ActiveDirectory.start()
  await ad.addAccount('alice', { groups: ['gpu'] })
  await ad.addAccount('Jane.Doe', {
    cn: 'Doe\\, Jane \\"JD\\" \\+ Zoë (物理*)',
    groups: ['physics'],
    attributes: { displayName: 'Doe, Jane (物理)' }
  })
  await ad.addAccount('guest1', { ou: `OU=Guests,${BASE}` })
})
afterAll(() => ad?.[Symbol.asyncDispose]())

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-ldap-'))
  database = openDatabase(join(directory, 'berth.sqlite'))
  users = new Users(database, { from: 22000, to: 22099, exclude: [] })
  accounts = new DomainAccounts(database, users)
  gone = []
  back = []
})
afterEach(() => {
  database.close()
  rmSync(directory, { recursive: true })
})

/** As docs/web.md has it; without the required group, but where a test is about it. */
function joined(changes: Record<string, unknown> = {}): Ldap {
  const text = stringify({
    ldap: ad.config({ requiredGroup: undefined, ...changes }),
    nodes: { gpu1: { address: '192.0.2.1', managePort: 2222, lxd: 'unix:///nowhere' } },
    templates: [{ name: 'debian', image: 'debian' }]
  })
  return new Ldap({
    config: parseConfig(text, 'berth.yaml').ldap as LdapConfig,
    accounts,
    users,
    log: pino({ level: 'silent' }),
    onGone: async user => void gone.push(user.name),
    onBack: async user => void back.push(user.name)
  })
}

const signIn = (ldap: Ldap, login: string, password = passwordOf(login)) => ldap.authenticate(login, password)

async function refused(attempt: Promise<unknown>): Promise<UserError> {
  try {
    await attempt
  } catch (error) {
    if (error instanceof UserError) return error
    throw error
  }
  throw new Error('let in')
}

describe('signing in', () => {
  it.each([
    ['LDAPS and a service account by its UPN', () => ({})],
    ['a service account by its DN', () => ({ bindDn: `CN=berth,CN=Users,${BASE}` })],
    ['a service account by DOMAIN\\name', () => ({ bindDn: 'AD\\berth' })],
    ['StartTLS', () => ({ url: `ldap://${ad.address}`, startTls: true })],
    [
      'the own UPN, without a service account',
      () => ({ bindDn: undefined, bindPasswordFile: undefined, bindTemplate: `{{login}}@${DOMAIN}`, recheck: 'off' })
    ],
    ['a base below the domain', () => ({ base: ad.people })]
  ])('works with %s', async (_, changes) => {
    const ldap = joined(changes())
    const { user, displayName, email } = await signIn(ldap, 'alice')
    expect(user.name).toBe('alice')
    expect({ displayName, email }).toEqual({ displayName: 'The alice', email: 'alice@lab.example' })
    expect((await refused(signIn(ldap, 'alice', 'wrong'))).reason).toBe('sign-in-failed')
    expect((await refused(signIn(ldap, 'nobody', 'wrong'))).reason).toBe('sign-in-failed')
  })

  it('knows people by sAMAccountName, in whatever case, with any characters in their DN', async () => {
    const { user, displayName } = await signIn(joined(), 'jane.doe', passwordOf('Jane.Doe'))
    expect(user.name).toBe('jane-doe')
    expect(displayName).toBe('Doe, Jane (物理)')
    expect(accounts.of(user)).toMatchObject({
      login: 'Jane.Doe',
      entryId: expect.stringMatching(/^guid:[0-9a-f]{32}$/)
    })
    expect((await signIn(joined(), 'JANE.DOE', passwordOf('Jane.Doe'))).user).toEqual(user)
  })

  it('is nobody for a name that would change the filter', async () => {
    const ldap = joined()
    for (const login of ['*', 'ali*', 'alice)(objectClass=*', 'AD\\alice', `alice@${DOMAIN}`, ad.dn('alice')]) {
      expect((await refused(signIn(ldap, login, passwordOf('alice')))).reason, login).toBe('sign-in-failed')
    }
  })

  it('never sends a password in the clear, and says that TLS is missing', async () => {
    const { reason, cause } = await refused(signIn(joined({ url: `ldap://${ad.address}` }), 'alice'))
    expect(reason).toBe('directory-unavailable')
    expect(String(cause)).toMatch(/strong/i)
  })

  it('works as docs/web.md has it, for members of the required group alone', async () => {
    const ldap = joined(ad.config())
    expect((await signIn(ldap, 'alice')).user.name).toBe('alice')
    expect((await refused(signIn(ldap, 'guest1'))).reason).toBe('not-allowed')
  })

  it('takes members of groups in the group by a filter of Active Directory’s', async () => {
    const nested = `(memberOf:1.2.840.113556.1.4.1941:=${ad.group})`
    const ldap = joined({ userFilter: `(&(objectClass=user)(sAMAccountName={{login}})${nested})` })
    expect((await signIn(ldap, 'alice')).user.name).toBe('alice')
    expect((await signIn(ldap, 'Jane.Doe')).user.name).toBe('jane-doe')
    expect((await refused(signIn(ldap, 'guest1'))).reason).toBe('sign-in-failed')
    await ldap.recheck()
    expect(gone).toEqual([])
  })

  it('is nobody where the filter fits several', async () => {
    const ldap = joined({ userFilter: '(|(sAMAccountName={{login}})(objectClass=user))' })
    expect((await refused(signIn(ldap, 'alice'))).reason).toBe('sign-in-failed')
  })
})

describe('what the domain does with an account', () => {
  const CLOSED: [string, Record<string, string>][] = [
    ['disabled', { userAccountControl: '514' }],
    ['expired', { accountExpires: '131000000000000000' }]
  ]
  it.each(CLOSED)('%s: the password is refused', async (state, attributes) => {
    const name = `closed-${state}`
    await ad.addAccount(name, { attributes })
    expect((await refused(signIn(joined(), name))).reason).toBe('sign-in-failed')
  })

  it.each([...CLOSED, ['moved out of the filter', { employeeType: 'retired' }], ['deleted', undefined]] as [
    string,
    Record<string, string> | undefined
  ][])('%s: shut out at the next check, and nobody else', async (state, attributes) => {
    const name = `later-${state.split(' ')[0]}`
    const userFilter = '(&(objectClass=user)(sAMAccountName={{login}})(!(employeeType=retired)))'
    await ad.addAccount(name)
    const ldap = joined({ userFilter })
    for (const login of ['alice', name]) await signIn(ldap, login)
    await ldap.recheck()
    expect(gone).toEqual([])
    if (attributes === undefined) await ad.ldif(`dn: ${ad.dn(name)}\nchangetype: delete\n`)
    for (const [attribute, value] of Object.entries(attributes ?? {}))
      await ad.modify(ad.dn(name), `replace: ${attribute}\n${attribute}: ${value}`)
    await ldap.recheck()
    expect(gone).toEqual([name])
    expect(users.need('alice').state).toBe('enabled')
  })

  it('let in again: enabled here again', async () => {
    await ad.addAccount('returns', { groups: ['gpu'] })
    const ldap = joined({ requiredGroup: ad.group })
    for (const login of ['alice', 'returns']) await signIn(ldap, login)
    await ad.setInGroup('gpu', ad.dn('returns'), false)
    await ldap.recheck()
    expect(gone).toEqual(['returns'])
    await ad.setInGroup('gpu', ad.dn('returns'), true)
    await ldap.recheck()
    expect(back).toEqual(['returns'])
  })

  it('renamed and moved: the same user here, under the new name there', async () => {
    await ad.addAccount('miss.smith')
    const ldap = joined()
    const { user } = await signIn(ldap, 'miss.smith')
    await ad.ldif(
      `dn: ${ad.dn('miss.smith')}\nchangetype: moddn\nnewrdn: CN=Mrs Jones\ndeleteoldrdn: 1\nnewsuperior: OU=Guests,${BASE}\n`
    )
    await ad.modify(
      `CN=Mrs Jones,OU=Guests,${BASE}`,
      'replace: sAMAccountName\nsAMAccountName: mrs.jones\n-\nreplace: displayName\ndisplayName: Mrs Jones'
    )
    await ldap.recheck()
    expect(gone).toEqual([])
    expect(accounts.of(user)).toMatchObject({ login: 'mrs.jones', displayName: 'Mrs Jones' })
    expect((await signIn(ldap, 'mrs.jones', passwordOf('miss.smith'))).user.name).toBe('miss-smith')
  })

  it('a password that must be changed first: says so to whoever knows it, and to nobody else', async () => {
    await ad.addAccount('newcomer', { attributes: { pwdLastSet: '0' } })
    const known = await refused(signIn(joined(), 'newcomer'))
    expect({ reason: known.reason, details: known.details }).toEqual({
      reason: 'not-allowed',
      details: "Your password in the lab's directory has to be changed first."
    })
    expect((await refused(signIn(joined(), 'newcomer', 'wrong'))).reason).toBe('sign-in-failed')
  })

  it('locked for a while by failed tries: refused here too, and not shut out', async () => {
    await ad.modify(BASE, 'replace: lockoutThreshold\nlockoutThreshold: 2')
    await ad.addAccount('fumbler')
    const ldap = joined()
    await signIn(ldap, 'fumbler')
    for (const _ of [1, 2, 3]) await refused(signIn(ldap, 'fumbler', 'wrong'))
    expect((await refused(signIn(ldap, 'fumbler'))).reason).toBe('sign-in-failed')
    await ldap.recheck()
    expect(gone).toEqual([])
    await ad.modify(BASE, 'replace: lockoutThreshold\nlockoutThreshold: 0')
  })
})
