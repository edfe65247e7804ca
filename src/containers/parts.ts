import type { Config, NodeConfig } from '../config.ts'
import type { Keys } from '../directory/keys.ts'
import type { Users } from '../directory/users.ts'
import type { Log } from '../log.ts'
import type { LxdClient } from '../lxd/client.ts'
import type { HostKeys } from './host-keys.ts'
import type { KeptContainers } from './kept-containers.ts'
import type { NodeSetup } from './node-setup.ts'
import type { PortForwards } from './port-forwards.ts'
import type { ContainerRecords } from './records.ts'
import type { Turns } from './turns.ts'

/** Asks an SSH server for its host key; throws with what happened instead. */
export type ProbeHostKey = (
  host: string,
  port: number,
  options: { timeoutMs: number; signal?: AbortSignal }
) => Promise<{ type: string; publicKey: string }>

/** What the steps of a container's life work with. */
export interface Parts {
  readonly config: Config
  readonly keys: Keys
  readonly users: Pick<Users, 'byId'>
  readonly records: ContainerRecords
  readonly forwards: PortForwards
  readonly hostKeys: HostKeys
  readonly kept: KeptContainers
  readonly nodeSetup: NodeSetup
  readonly probeHostKey: ProbeHostKey
  /** Pushes of keys, by container. */
  readonly keyTurns: Turns
  /** Pushes to nodes that did not answer, by container. */
  readonly keyRetries: Map<string, NodeJS.Timeout>
  /** Containers, `userId@node`, in which something was wrong when last started or looked at: the next start mends berth's files. */
  readonly ailing: Set<string>
  /** The list of keys each container, `userId@node`, is known to hold. */
  readonly delivered: Map<string, string>
  readonly log: Log
  lxdFor(node: NodeConfig): LxdClient
}
