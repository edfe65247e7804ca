import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { AndFilter, EqualityFilter, type Entry, escapeFilter, type Filter, FilterParser, OrFilter } from 'ldapts'
import type { LdapConfig } from '../config.ts'
import { UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { DomainAccount, DomainAccounts, Person } from './domain-accounts.ts'
import { type BindOutcome, LdapConnection, type LdapServer } from './ldap-connection.ts'
import { attributesOf, idFilter, isLocked, readPerson } from './ldap-entry.ts'
import type { User, Users } from './users.ts'

/** A refusal comes at the next full step after the request, whatever the directory was asked meanwhile: its time tells nothing. */
const REFUSAL_STEP_MS = 1000
const MAX_AT_ONCE = 64
/** A pass waits no longer for containers to be closed; what is under way goes on. */
const PASS_MS = 60_000
const MAX_LOGIN_LENGTH = 256
const MAX_PASSWORD_LENGTH = 1024

/** Somebody whose password the lab's directory has just confirmed. */
export interface SignedIn {
  readonly user: User
  /** Whatever the directory says: hostile text until escaped. */
  readonly displayName: string
  readonly email: string
}

/** All that the web pages need of it. */
export type PasswordSignIn = Pick<Ldap, 'authenticate'>

interface LdapParts {
  readonly config: LdapConfig
  readonly accounts: DomainAccounts
  readonly users: Users
  readonly log: Log
  /** Called when the directory does not let a user in any more, again at each recheck while it throws, and once after a restart. */
  onGone(user: User): Promise<void>
  /** Called when it does again. */
  onBack(user: User): Promise<void>
}

/** Signing in with the lab's directory: LDAPv3, as OpenLDAP, 389, FreeIPA and Active Directory speak it. */
export class Ldap {
  readonly #parts: LdapParts
  readonly #config: LdapConfig
  readonly #server: LdapServer
  readonly #servicePassword: string | undefined
  #atOnce = 0
  /** Ids of those gone of whom all that follows has been carried out, or is at the moment. */
  readonly #shutOut = new Set<number>()
  #timer: NodeJS.Timeout | undefined
  #checking: Promise<void> | undefined

  /** @throws UserError `bad-config` for a file that cannot be read, or a filter that is none */
  constructor(parts: LdapParts) {
    const { config } = parts
    this.#parts = parts
    this.#config = config
    this.#server = {
      url: config.url,
      startTls: config.startTls,
      ca: config.ca === undefined ? undefined : readNamed('ca', config.ca),
      timeoutMs: config.timeout
    }
    this.#servicePassword =
      config.bindPasswordFile === undefined ? undefined : readNamed('bindPasswordFile', config.bindPasswordFile).trim()
    try {
      this.#userFilter('probe')
    } catch (error) {
      throw new UserError('bad-config', `ldap.userFilter: ${(error as Error).message}`, {
        hint: 'Write it as ldapsearch(1) takes it, such as (&(objectClass=person)(uid={{login}})).'
      })
    }
  }

  /**
   * Who somebody is, by name and password of the lab's directory. The first time makes the user, with a fixed port.
   * @throws UserError `sign-in-failed` for a wrong password and an unknown name alike, in the same time; `not-allowed` for a right
   *   password of somebody outside the required group, or one to be changed first; `user-disabled`; `directory-unavailable`; `busy`
   */
  async authenticate(login: string, password: string): Promise<SignedIn> {
    if (this.#atOnce >= MAX_AT_ONCE) {
      throw new UserError('busy', 'Too many people are signing in.', { hint: 'Try again in a few seconds.' })
    }
    const startedAtMs = performance.now()
    this.#atOnce++
    try {
      return await this.#authenticate(login.trim(), password)
    } catch (error) {
      const isRefusal = error instanceof UserError && error.reason === 'sign-in-failed'
      if (isRefusal) await sleep(REFUSAL_STEP_MS - ((performance.now() - startedAtMs) % REFUSAL_STEP_MS))
      else if (error instanceof UserError) this.#parts.log.warn({ err: error.cause ?? error }, 'sign-in by LDAP')
      throw error
    } finally {
      this.#atOnce--
    }
  }

  async #authenticate(login: string, password: string): Promise<SignedIn> {
    const sane = login !== '' && login.length <= MAX_LOGIN_LENGTH && !/\p{C}/u.test(login)
    if (!sane || password === '' || password.length > MAX_PASSWORD_LENGTH) throw refusal()
    await using connection = await LdapConnection.open(this.#server)
    const entry = await this.#prove(connection, login, password)
    if (!entry || isLocked(entry)) throw refusal()
    const person = readPerson(entry, this.#config)
    if (!person) throw refusal()
    if (!(await this.#isInGroup(connection, entry.dn, person.login))) {
      throw new UserError(
        'not-allowed',
        "Your account in the lab's directory is not one of those that may use berth.",
        {
          hint: `Ask your admin to put you into ${this.#config.requiredGroup}.`
        }
      )
    }
    const user = await this.#userOf(connection, person)
    if (user.state === 'disabled') throw new UserError('user-disabled', undefined, { hint: 'Ask your admin.' })
    return { user, displayName: person.displayName, email: person.email }
  }

  /** The entry of `login` if the password is right. The connection then belongs to whoever may search. */
  async #prove(connection: LdapConnection, login: string, password: string): Promise<Entry | undefined> {
    if (this.#config.bindDn === undefined) {
      const bound = await connection.bind(
        (this.#config.bindTemplate as string).replaceAll('{{login}}', () => escapeDn(login)),
        password
      )
      return isRight(bound) ? onlyOne(await this.#search(connection, this.#userFilter(login))) : undefined
    }
    await this.#bindService(connection)
    const entry = onlyOne(await this.#search(connection, this.#userFilter(login)))
    if (!entry) return undefined
    await using second = await LdapConnection.open(this.#server)
    return isRight(await second.bind(entry.dn, password)) ? entry : undefined
  }

  /** @throws UserError `directory-unavailable` */
  async #bindService(connection: LdapConnection): Promise<void> {
    if ((await connection.bind(this.#config.bindDn as string, this.#servicePassword ?? '')) === 'bound') return
    throw new UserError('directory-unavailable', 'It does not take the account that berth looks people up with.', {
      hint: 'Tell your admin: ldap.bindDn and ldap.bindPasswordFile in berth.yaml.'
    })
  }

  /** The user of a proven person, by what stays in the directory, else by the name there. */
  async #userOf(connection: LdapConnection, person: Person): Promise<User> {
    const { accounts, users } = this.#parts
    const known = accounts.byEntryId(person.entryId) ?? (await this.#sameName(connection, person))
    if (!known) return accounts.welcome(person, { adopt: this.#config.adoptUsers })
    const { cameBack } = accounts.follow(known.userId, person)
    if (cameBack) void this.#letBack(known.userId)
    return users.byId(known.userId) as User
  }

  /**
   * The account that had this name last. It may be another person's, renamed since: then its own name is noted. One whose entry is
   * gone for good is the person's who has the name now only where names are persons (`adoptUsers`).
   */
  async #sameName(connection: LdapConnection, person: Person): Promise<DomainAccount | undefined> {
    const { accounts } = this.#parts
    const account = accounts.byLogin(person.login)
    if (!account || account.entryId === '' || person.entryId === '') return account
    const entry = onlyOne(await this.#search(connection, idFilter(account, this.#config)))
    const other = entry && readPerson(entry, this.#config)
    // The same entry, by an id of another kind.
    if (other?.entryId === person.entryId) return account
    if (!other) return this.#config.adoptUsers ? account : undefined
    accounts.follow(account.userId, other)
    return undefined
  }

  /** Looks everybody up again who ever signed in. @throws UserError `directory-unavailable` */
  async recheck(): Promise<void> {
    const { accounts, users, log } = this.#parts
    const known = accounts.list()
    if (known.length === 0) return
    await using connection = await LdapConnection.open(this.#server)
    await this.#bindService(connection)
    const found: { account: DomainAccount; person: Person | undefined }[] = []
    for (const account of known) found.push({ account, person: await this.#lookUp(connection, account) })
    const present = found.filter(({ account }) => account.goneAtMs === undefined)
    if (present.length > 1 && present.every(({ person }) => !person)) {
      // A lost right to search looks like this; a lab whose members all left at once does not exist.
      log.error({ accounts: present.length }, 'the directory shows none of its people any more: nobody is shut out')
      return
    }
    // Each is refused before anything is done about it: that may take minutes where a node is busy, and must not delay the next pass.
    const changes: Promise<void>[] = []
    for (const { account, person } of found) {
      const user = users.byId(account.userId)
      if (!user) continue
      if (person) {
        if (accounts.follow(account.userId, person).cameBack) changes.push(this.#letBack(user.id))
      } else {
        if (account.goneAtMs === undefined) {
          log.info({ user: user.name }, 'the directory does not let this user in any more')
          accounts.markGone(account.userId, { shutOut: this.#config.whenGone === 'disable' })
        }
        changes.push(this.#carryOut(user))
      }
    }
    await Promise.race([Promise.all(changes), sleep(PASS_MS, undefined, { ref: false })])
  }

  /** Nodes that are away, or containers that are busy, are no failure: `keepShuttingOut` reaches them later. */
  async #carryOut(user: User): Promise<void> {
    if (this.#shutOut.has(user.id)) return
    this.#shutOut.add(user.id)
    if (!(await this.#tell(() => this.#parts.onGone(user)))) this.#shutOut.delete(user.id)
  }

  async #letBack(userId: number): Promise<void> {
    this.#shutOut.delete(userId)
    await this.#tell(() => this.#parts.onBack(this.#parts.users.byId(userId) as User))
  }

  /** @returns whether it could be carried out */
  async #tell(change: () => Promise<void>): Promise<boolean> {
    try {
      await change()
      return true
    } catch (error) {
      this.#parts.log.error({ err: error }, 'what the directory changed could not be carried out')
      return false
    }
  }

  /** The person behind an account, unless gone, locked, or out of the group. */
  async #lookUp(connection: LdapConnection, account: DomainAccount): Promise<Person | undefined> {
    const filter = new AndFilter({ filters: [idFilter(account, this.#config), this.#userFilter(undefined)] })
    const entry = onlyOne(await this.#search(connection, filter))
    if (!entry || isLocked(entry)) return undefined
    const person = readPerson(entry, this.#config)
    return person && (await this.#isInGroup(connection, entry.dn, person.login)) ? person : undefined
  }

  /** Rechecks as often as the config says until `stopRechecking`; half the time, so that a pass may take as long again. */
  startRechecking(): void {
    if (this.#config.recheck === 'off') return
    this.#timer = setInterval(() => {
      this.#checking ??= this.recheck()
        .catch((error: unknown) =>
          this.#parts.log.warn({ err: (error as Error).cause ?? error }, 'the directory could not be asked again')
        )
        .finally(() => (this.#checking = undefined))
    }, this.#config.recheck / 2)
  }

  async stopRechecking(): Promise<void> {
    clearInterval(this.#timer)
    await this.#checking
  }

  #search(connection: LdapConnection, filter: Filter): Promise<Entry[]> {
    return connection.search(this.#config.base, 'sub', filter, attributesOf(this.#config))
  }

  /** `ldap.userFilter` for one login, or for any (undefined). */
  #userFilter(login: string | undefined): Filter {
    const value = login === undefined ? '*' : escapeFilter`${login}`
    return FilterParser.parseString(this.#config.userFilter.replaceAll('{{login}}', () => value))
  }

  async #isInGroup(connection: LdapConnection, dn: string, login: string): Promise<boolean> {
    const { requiredGroup } = this.#config
    if (requiredGroup === undefined) return true
    const filter = new OrFilter({
      filters: [
        new EqualityFilter({ attribute: 'member', value: dn }),
        new EqualityFilter({ attribute: 'uniqueMember', value: dn }),
        new EqualityFilter({ attribute: 'memberUid', value: login })
      ]
    })
    return (await connection.search(requiredGroup, 'base', filter, ['cn'])).length === 1
  }
}

function readNamed(key: string, path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new UserError('bad-config', `ldap.${key}: ${(error as Error).message}`, {
      hint: 'Mend the path, or the rights of the file.',
      cause: error
    })
  }
}

const refusal = () =>
  new UserError('sign-in-failed', undefined, {
    hint: "They are those of the lab's directory. Check them and try again."
  })

/** @throws UserError `not-allowed` for a right password that has to be changed */
function isRight(outcome: BindOutcome): boolean {
  if (outcome === 'stale') {
    throw new UserError('not-allowed', "Your password in the lab's directory has to be changed first.", {
      hint: 'Change it where you change it otherwise, then sign in here.'
    })
  }
  return outcome === 'bound'
}

/** Two entries for one name are nobody. */
const onlyOne = (entries: Entry[]): Entry | undefined => (entries.length === 1 ? entries[0] : undefined)

/** RFC 4514 section 2.4. */
const escapeDn = (value: string): string => value.replaceAll(/[,+"\\<>;=#]|^ | $/g, character => `\\${character}`)
