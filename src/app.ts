import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createCommands } from '../forced-commands/index.ts'
import { Audit } from './command/audit.ts'
import { createRunCommand } from './command/run-command.ts'
import { ownEnvironment, parseListen, type Config, type LdapConfig, type NodeConfig } from './config.ts'
import { Containers } from './containers/containers.ts'
import { Members } from './containers/members.ts'
import { openDatabase, type Database } from './db/open.ts'
import { AccessTokens } from './directory/access-tokens.ts'
import { DomainAccounts } from './directory/domain-accounts.ts'
import { Invites } from './directory/invites.ts'
import { Keys } from './directory/keys.ts'
import { Ldap } from './directory/ldap.ts'
import { parsePublicKey, type PublicKey } from './directory/public-key.ts'
import { SignInLinks } from './directory/sign-in-links.ts'
import { type User, Users } from './directory/users.ts'
import { UserError } from './errors.ts'
import type { Log } from './log.ts'
import { LxdClient } from './lxd/client.ts'
import { readCredentials } from './lxd/credentials.ts'
import { Operations } from './operations/operations.ts'
import { ArchiveDirectory } from './snapshots/archive-directory.ts'
import { Replacements } from './snapshots/replacements.ts'
import { Schedule } from './snapshots/schedule.ts'
import { SnapshotRecords } from './snapshots/snapshot-records.ts'
import { Snapshots } from './snapshots/snapshots.ts'
import { Tokens } from './snapshots/tokens.ts'
import { generateHostKey, loadOrCreateHostKey, type HostKey } from './ssh/host-key.ts'
import { probeHostKey } from './ssh/probe-host-key.ts'
import { startSshServer, type SshServer } from './ssh/server.ts'
import type { WebServer } from './web/server.ts'
import { Sessions } from './web/sessions.ts'

/** berth, joined together. Nothing listens before `startEndpoints`. */
export interface App {
  readonly config: Config
  readonly log: Log
  readonly database: Database
  readonly users: Users
  readonly keys: Keys
  readonly invites: Invites
  readonly links: SignInLinks
  readonly operations: Operations
  readonly containers: Containers
  readonly snapshots: Snapshots
  readonly members: Members
  readonly audit: Audit
  /** The key of all manage endpoints. */
  hostKey(): HostKey
  lxdFor(node: NodeConfig): LxdClient
  /** Forgets the connection to a node, whose credentials have changed. */
  reconnect(node: NodeConfig): Promise<void>
  /** Listens on every manage endpoint and brings back what should run; for the one process that owns the state. */
  startEndpoints(): Promise<void>
  /** Stops listening, lets running operations end, and closes the database. */
  close(): Promise<void>
}

const DAY_MS = 24 * 3600_000

export const databasePath = (config: Config): string => join(config.stateDir, 'berth.sqlite')

/** A client of the node's LXD, in berth's project; nothing is sent yet. @throws UserError `node-unavailable` before `berth node trust` */
export function connectToNode(config: Config, node: NodeConfig): LxdClient {
  const tls = node.lxd.startsWith('https:') ? readCredentials(config.stateDir, node.name) : undefined
  if (node.lxd.startsWith('https:') && !tls) {
    throw new UserError('node-unavailable', `${node.name} does not know berth yet.`, {
      hint: `The admin types: berth node trust ${node.name}`
    })
  }
  return new LxdClient({
    url: node.lxd,
    project: node.project,
    ...(node.target && { target: node.target }),
    ...(tls && { tls })
  })
}

/** @throws UserError `newer-database`, and whatever the state directory's file system says */
export function createApp(config: Config, log: Log): App {
  const database = openDatabase(databasePath(config))
  const users = new Users(database, config.ports)
  const keys = new Keys(database)
  const invites = new Invites(database, users, keys)
  const accounts = new DomainAccounts(database, users)
  const links = new SignInLinks(database, users, accounts)
  const operations = new Operations(database)
  const audit = new Audit(database)
  const clients = new Map<string, LxdClient>()
  const hostKey = (): HostKey => loadOrCreateHostKey(join(config.stateDir, 'ssh_host_ed25519_key'))
  const lxdFor = (node: NodeConfig): LxdClient => {
    const known = clients.get(node.name)
    if (known) return known
    const client = connectToNode(config, node)
    clients.set(node.name, client)
    return client
  }
  const containers = new Containers({
    config,
    database,
    keys,
    users,
    operations,
    lxdFor,
    probeHostKey,
    generateHostKey,
    log
  })
  const tokens = new Tokens(database)
  const snapshots = new Snapshots({
    config,
    containers,
    operations,
    records: new SnapshotRecords(database),
    directory: new ArchiveDirectory(config.snapshots.dir, database, ownEnvironment()),
    userOf: id => users.byId(id)
  })
  const replacements = new Replacements({ config, containers, operations, users, archives: snapshots.directory })
  const nodesOf = (user: User) => containers.nodesOf(user)
  const schedule = new Schedule({ config, snapshots, users, log, nodesOf })
  const sessions = new Sessions(database)
  let server: SshServer | undefined
  let ldap: Ldap | undefined
  let web: WebServer | undefined
  let forgetting: NodeJS.Timeout | undefined

  function forgetOld(): void {
    try {
      const beforeMs = Date.now() - config.audit.keep
      audit.forget(beforeMs)
      operations.forget(beforeMs)
    } catch (err) {
      log.warn({ err }, 'old lines of the audit are left; it is tried again tomorrow')
    }
  }

  /** Signing in with the lab's directory, whose word holds for the manage endpoints and containers too where `whenGone` says so. */
  function joinLdap(ldapConfig: LdapConfig): Ldap {
    const shutsOut = ldapConfig.whenGone === 'disable'
    return new Ldap({
      config: ldapConfig,
      accounts,
      users,
      log,
      async onGone(user) {
        sessions.endAll(user.id)
        if (!shutsOut) return
        server?.endUser(user.id)
        const nodes = await containers.disable(user, { keepRunning: true })
        log.info({ user: user.name, nodes }, "shut out as the lab's directory has it")
      },
      async onBack(user) {
        if (shutsOut && user.state === 'enabled') await containers.enable(user)
      }
    })
  }
  const hangUp = (userId: number) => {
    sessions.endAll(userId)
    server?.endUser(userId)
  }
  const members = new Members({ database, users, invites, containers, archives: snapshots, hangUp })

  async function startWeb(hostPublicKey: string): Promise<WebServer | undefined> {
    const listen = parseListen(config.web.listen)
    if (!listen) return undefined
    // Only here: the command line has no use for a web server.
    const { startWebServer } = await import('./web/server.ts')
    const started = await startWebServer({
      listen,
      config,
      users,
      keys,
      invites,
      links,
      passwords: ldap,
      accounts,
      accessTokens: new AccessTokens(database),
      sessions,
      containers,
      snapshots: snapshots.records,
      members,
      audit,
      hostPublicKey,
      log,
      lxdFor
    })
    log.info({ url: started.url }, 'web pages')
    return started
  }

  return {
    config,
    log,
    database,
    users,
    keys,
    invites,
    links,
    operations,
    containers,
    snapshots,
    members,
    audit,
    hostKey,
    lxdFor,
    async reconnect(node) {
      await clients.get(node.name)?.close()
      clients.delete(node.name)
    },
    async startEndpoints() {
      const interrupted = operations.takeOver()
      if (interrupted.closed + interrupted.unresolved > 0) log.warn(interrupted, 'operations were interrupted')
      const { privateKey, publicKey } = hostKey()
      const commands = createCommands({
        config,
        containers,
        invites,
        keys,
        links,
        snapshots,
        replacements,
        tokens,
        hostPublicKey: publicKey
      })
      server = await startSshServer({
        listen: config.ssh.listen,
        nodes: [...config.nodes.values()],
        hostKey: privateKey,
        keys,
        users,
        userCas: readUserCas(config),
        run: createRunCommand({ commands, audit, log }),
        log
      })
      operations.resolveInterrupted()
      replacements.keepTidy()
      snapshots.keepTidy(() => users.list())
      schedule.start()
      containers.keepShuttingOut()
      forgetOld()
      forgetting = setInterval(forgetOld, DAY_MS).unref()
      ldap = config.ldap && joinLdap(config.ldap)
      ldap?.startRechecking()
      web = await startWeb(publicKey)
      void containers.resume()
    },
    async close() {
      clearInterval(forgetting)
      schedule.stop()
      containers.close()
      snapshots.close()
      await ldap?.stopRechecking()
      await web?.close()
      await server?.close()
      await operations.close()
      await replacements.close()
      await Promise.allSettled([...clients.values()].map(client => client.close()))
      database.close()
    }
  }
}

/** The file named by `ssh.userCa`: one public key a line (sshd_config(5), TrustedUserCAKeys). */
function readUserCas({ ssh }: Config): PublicKey[] {
  if (ssh.userCa === undefined) return []
  return readFileSync(ssh.userCa, 'utf8')
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))
    .map(line => parsePublicKey(line))
}
