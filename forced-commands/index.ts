import type { Command } from '../src/command/command.ts'
import type { Config } from '../src/config.ts'
import type { Containers } from '../src/containers/containers.ts'
import type { Invites } from '../src/directory/invites.ts'
import type { Keys } from '../src/directory/keys.ts'
import type { Replacements } from '../src/snapshots/replacements.ts'
import type { Snapshots } from '../src/snapshots/snapshots.ts'
import type { Tokens } from '../src/snapshots/tokens.ts'
import type { SignInLinks } from '../src/directory/sign-in-links.ts'
import config from './config.ts'
import enroll from './enroll.ts'
import help from './help.ts'
import keys from './keys.ts'
import knownHosts from './known-hosts.ts'
import port from './port.ts'
import rebuild from './rebuild.ts'
import recover from './recover.ts'
import register from './register.ts'
import restart from './restart.ts'
import shell from './shell.ts'
import snapshot from './snapshot.ts'
import snapshots from './snapshots.ts'
import start from './start.ts'
import status from './status.ts'
import stop from './stop.ts'
import wake from './wake.ts'
import web from './web.ts'

export interface CommandParts {
  readonly config: Config
  readonly containers: Containers
  readonly invites: Invites
  readonly keys: Keys
  readonly snapshots: Snapshots
  readonly replacements: Replacements
  readonly tokens: Tokens
  readonly links: SignInLinks
  readonly hostPublicKey: string
}

/** Every verb a member may type, in the order of `help`. */
export function createCommands(parts: CommandParts): readonly Command[] {
  const list: readonly Command[] = [
    enroll(parts),
    register(parts),
    start(parts),
    status(parts),
    stop(parts),
    restart(parts),
    wake(parts),
    shell(parts),
    port(parts),
    snapshot(parts),
    snapshots(parts),
    recover(parts),
    rebuild(parts),
    keys(parts),
    config(parts),
    knownHosts(parts),
    web(parts),
    help({ list: () => list })
  ]
  return list
}
