import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { databasePath } from '../../app.ts'
import type { Config } from '../../config.ts'
import { MIGRATIONS_DIRECTORY } from '../../db/open.ts'
import { parsePublicKey } from '../../directory/public-key.ts'
import { lockState } from '../state-lock.ts'
import { fault, type Finding, guard, ok, warning } from './finding.ts'

/** What is on berth's own disk: state directory, database, the key of the user CA, and whether `serve` runs. */
export async function checkState(config: Config): Promise<Finding[]> {
  if (!existsSync(config.stateDir)) {
    return [warning('state', `${config.stateDir} is not there yet; serve makes it`, 'systemctl enable --now berth')]
  }
  const found = await Promise.all([
    guard('state', () => checkModes(config.stateDir)),
    guard('database', () => checkDatabase(config)),
    guard('serve', () => checkServe(config.stateDir)),
    guard('user-ca', () => checkUserCa(config.ssh.userCa)),
    guard('web-admins', () => checkWebAdmins(config))
  ])
  return found.flat()
}

function checkModes(stateDir: string): Finding[] {
  const paths = [stateDir, ...readdirSync(stateDir).map(file => join(stateDir, file))]
  const open = paths.filter(path => (statSync(path).mode & 0o077) !== 0)
  if (open.length === 0) return [ok('state', `${stateDir}, for its owner alone`)]
  return [
    fault('state', `others may read ${open.join(', ')}: private keys are in there`, `chmod go= ${open.join(' ')}`)
  ]
}

function checkDatabase(config: Config): Finding[] {
  const path = databasePath(config)
  if (!existsSync(path)) return [ok('database', `${path} is made at the first start`)]
  const restore = `systemctl stop berth; then put a copy made by \`berth backup\` in the place of ${path}`
  let database: Sqlite.Database
  try {
    database = new Sqlite(path, { fileMustExist: true, timeout: 5000 })
  } catch (error) {
    return [fault('database', `${path} cannot be opened: ${(error as Error).message}`, restore)]
  }
  try {
    const version = database.pragma('user_version', { simple: true }) as number
    const known = readdirSync(MIGRATIONS_DIRECTORY).filter(file => /^\d{3}-.*\.sql$/.test(file)).length
    if (version > known) {
      const text = `${path} is at version ${version}, this berth knows ${known}`
      return [fault('database', text, `Run the newer berth again, or: ${restore}`)]
    }
    const broken = database.pragma('integrity_check(5)') as { integrity_check: string }[]
    const words = broken.map(row => row.integrity_check).join('; ')
    if (words !== 'ok') return [fault('database', `${path} is damaged: ${words}`, restore)]
    return [ok('database', `version ${version} of ${known}, undamaged`)]
  } catch (error) {
    return [fault('database', `${path} cannot be read: ${(error as Error).message}`, restore)]
  } finally {
    database.close()
  }
}

function checkServe(stateDir: string): Finding[] {
  const lock = lockState(stateDir)
  if (lock === undefined) return [ok('serve', 'runs')]
  lock.release()
  return [warning('serve', 'does not run: no member can log in to manage', 'systemctl enable --now berth')]
}

function checkUserCa(path: string | undefined): Finding[] {
  if (path === undefined) return []
  const lines = readFileSync(path, 'utf8').split('\n')
  const keys = lines.filter(line => line.trim() !== '' && !line.startsWith('#')).map(parsePublicKey)
  if (keys.length > 0) return [ok('user-ca', `${path}: ${keys.map(key => key.fingerprint).join(', ')}`)]
  return [fault('user-ca', `${path} holds no key`, `ssh-keygen -t ed25519 -f ${path.replace(/\.pub$/, '')}`)]
}

/** The name alone makes an admin of whoever has it. */
function checkWebAdmins(config: Config): Finding[] {
  const { admins, listen } = config.web
  const path = databasePath(config)
  if (listen === 'off' || admins.length === 0 || !existsSync(path)) return []
  const database = new Sqlite(path, { readonly: true, timeout: 5000 })
  try {
    const users = new Set(database.prepare<[], string>('SELECT name FROM users').pluck().all())
    const nobody = admins.filter(name => !users.has(name))
    if (nobody.length === 0) return [ok('web-admins', admins.join(', '))]
    return nobody.map(name => {
      const claim = config.ldap ? `: who first signs in from the directory with a name like it becomes an admin` : ''
      const mend = `berth invite ${name}   # makes the user; or take it out of web.admins in ${config.path}`
      return warning('web-admins', `${name} in web.admins is no user${claim}`, mend)
    })
  } finally {
    database.close()
  }
}
