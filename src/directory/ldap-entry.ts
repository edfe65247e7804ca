import { EqualityFilter, type Entry, type Filter } from 'ldapts'
import type { LdapConfig } from '../config.ts'
import type { Person } from './domain-accounts.ts'

/** What an entry of the lab's directory says. */

const MAX_TEXT_LENGTH = 200
const DAY_MS = 24 * 3600 * 1000
const ACCOUNT_DISABLED = 2
const LOCK_ATTRIBUTES = [
  'userAccountControl',
  'accountExpires',
  'nsAccountLock',
  'pwdAccountLockedTime',
  'shadowExpire'
]

/**
 * What an entry keeps when it is renamed: RFC 4530 section 2.1; Active Directory; 389, whose own rules do not show entryUUID. The
 * id that is kept begins with the name of the last two, so that one kind is never taken for another.
 */
const ENTRY_IDS = ['entryUUID', 'objectGUID', 'nsUniqueId']

/** The attributes to ask for. */
export const attributesOf = ({ nameAttribute, displayNameAttribute, emailAttribute }: LdapConfig): string[] => [
  ...new Set([nameAttribute, displayNameAttribute, emailAttribute, ...ENTRY_IDS, ...LOCK_ATTRIBUTES])
]

/** Undefined without a name. */
export function readPerson(
  entry: Entry,
  { nameAttribute, displayNameAttribute, emailAttribute }: LdapConfig
): Person | undefined {
  const login = firstValue(entry, nameAttribute)
  if (login === undefined) return undefined
  return {
    login,
    entryId: readEntryId(entry),
    displayName: (firstValue(entry, displayNameAttribute) ?? login).slice(0, MAX_TEXT_LENGTH),
    email: (firstValue(entry, emailAttribute) ?? '').slice(0, MAX_TEXT_LENGTH)
  }
}

/**
 * Did an admin of the directory close the account? Active Directory (MS-ADTS 2.2.16, 2.3.1), 389 and FreeIPA, OpenLDAP's ppolicy
 * (slapo-ppolicy(5)), shadow(5). A lock by failed tries ends by itself and is none of these: anybody could cause it.
 */
export function isLocked(entry: Entry, nowMs = Date.now()): boolean {
  const value = (attribute: string) => firstValue(entry, attribute) ?? ''
  const shadowDays = Number(value('shadowExpire'))
  return (
    (Number(value('userAccountControl')) & ACCOUNT_DISABLED) !== 0 ||
    hasExpired(value('accountExpires'), nowMs) ||
    value('nsAccountLock').toLowerCase() === 'true' ||
    value('pwdAccountLockedTime') === '000001010000Z' ||
    (shadowDays > 0 && shadowDays * DAY_MS <= nowMs)
  )
}

/** Steps of 100 ns since 1601; 0 and the largest number mean never. */
function hasExpired(fileTime: string, nowMs: number): boolean {
  if (!/^\d{1,19}$/.test(fileTime) || fileTime === '0' || fileTime === '9223372036854775807') return false
  return Number(BigInt(fileTime) / 10_000n) - 11_644_473_600_000 <= nowMs
}

/** Finds the entry again, whatever its name has become. */
export function idFilter({ entryId, login }: Person, { nameAttribute }: LdapConfig): Filter {
  if (entryId.startsWith('guid:')) {
    return new EqualityFilter({ attribute: 'objectGUID', value: Buffer.from(entryId.slice(5), 'hex') })
  }
  if (entryId.startsWith('nsuniqueid:')) {
    return new EqualityFilter({ attribute: 'nsUniqueId', value: entryId.slice('nsuniqueid:'.length) })
  }
  if (entryId !== '') return new EqualityFilter({ attribute: 'entryUUID', value: entryId })
  return new EqualityFilter({ attribute: nameAttribute, value: login })
}

function readEntryId(entry: Entry): string {
  const guid = [entry['objectGUID']].flat()[0]
  if (Buffer.isBuffer(guid) && guid.length > 0) return `guid:${guid.toString('hex')}`
  const nsUniqueId = firstValue(entry, 'nsUniqueId')
  return firstValue(entry, 'entryUUID') ?? (nsUniqueId === undefined ? '' : `nsuniqueid:${nsUniqueId}`)
}

/** Attribute names have no case (RFC 4512 section 2.5). */
function firstValue(entry: Entry, attribute: string): string | undefined {
  const name = Object.keys(entry).find(key => key.toLowerCase() === attribute.toLowerCase())
  const first = name === undefined ? undefined : [entry[name]].flat()[0]
  return typeof first === 'string' && first !== '' ? first : undefined
}
