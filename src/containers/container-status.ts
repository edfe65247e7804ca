import type { RunningOperation } from '../operations/operations.ts'
import type { PortForward } from './port-forwards.ts'

/** What berth knows of a member's container on one node; plain JSON, the shape of `status --json`. */
export interface ContainerStatus {
  readonly node: string
  readonly name: string
  readonly template: string
  /** LXD's word in lower case: `running`, `stopped`, `frozen`, `error`, …; `missing` when LXD has no such container. */
  readonly state: string
  /** When the container was started; undefined unless it runs. */
  readonly startedAtMs: number | undefined
  readonly fixedPort: number
  /** Where the fixed port is: the node's address in the member's config. */
  readonly address: string
  /** How the fixed port is carried. */
  readonly forwarding: 'nat' | 'proxy'
  /** The container's own addresses. */
  readonly addresses: readonly string[]
  /** Extra ports: the node's, and the container's it leads to. */
  readonly ports: readonly PortForward[]
  /** `limit` undefined: unlimited; `used` undefined: not known. */
  readonly cpu: { readonly usedMs: number | undefined; readonly limit: number | undefined }
  readonly memory: { readonly usedBytes: number | undefined; readonly limitBytes: number | undefined }
  readonly disk: { readonly usedBytes: number | undefined; readonly limitBytes: number | undefined }
  readonly processes: { readonly used: number | undefined; readonly limit: number | undefined }
  /** GPUs and plain device nodes attached. */
  readonly gpus: readonly string[]
  /** Paths in the container at which the node's directories are mounted. */
  readonly mounts: readonly string[]
  /** The replaced container that `recover --undo` brings back, and until when. */
  readonly kept: { readonly template: string; readonly replacedAtMs: number; readonly untilMs: number } | undefined
  /** What is wrong, in sentences a member can act on. */
  readonly faults: readonly string[]
  readonly operation: RunningOperation | undefined
}
