import { once } from 'node:events'
import { connect } from 'node:net'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { LxdClient } from '../lxd/client.ts'
import { execCaptured } from '../lxd/exec.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { lastLine } from './authorized-keys.ts'
import { fixedPortHost } from './reachability.ts'
import { readTemplate } from './templates.ts'

interface Finding {
  readonly atMs: number
  readonly faults: readonly string[]
}

/** `status` may be asked in a loop: a container is looked into at most this often. */
const FINDING_AGE_MS = 2000
const LOOK_TIMEOUT_MS = 2000
const BANNER_TIMEOUT_MS = 1000
const MAX_FAULTS = 8
/** A hundred members asking at once must not start a hundred programs on the node. */
const MAX_AT_ONCE = 4

/** Looks into running containers for what keeps their owners out, within bounds no member can stretch. */
export class Health {
  readonly #findings = new Map<string, Finding>()
  readonly #underWay = new Map<string, Promise<readonly string[]>>()

  /** Sentences about what is wrong, at most two seconds old; none when all is well or too many are being looked at. */
  async faults(lxd: LxdClient, node: NodeConfig, user: User): Promise<readonly string[]> {
    const name = `${user.id}@${node.name}`
    const known = this.#findings.get(name)
    if (known && Date.now() - known.atMs < FINDING_AGE_MS) return known.faults
    const current = this.#underWay.get(name)
    if (current) return current
    if (this.#underWay.size >= MAX_AT_ONCE) return known?.faults ?? []
    const look = this.#look(lxd, node, user)
      .then(faults => {
        this.#findings.set(name, { atMs: Date.now(), faults })
        return faults
      })
      .finally(() => this.#underWay.delete(name))
    this.#underWay.set(name, look)
    return look
  }

  /** After a change the next `status` looks anew. */
  forget(node: NodeConfig, user: User): void {
    this.#findings.delete(`${user.id}@${node.name}`)
  }

  async #look(lxd: LxdClient, node: NodeConfig, user: User): Promise<readonly string[]> {
    const [inside, banner] = await Promise.all([lookInside(lxd, user), readBanner(node, user)])
    if (banner) return inside
    return [`No SSH server answers at ${node.address} port ${user.fixedPort}.`, ...inside]
  }
}

async function lookInside(lxd: LxdClient, user: User): Promise<string[]> {
  try {
    const { stdout } = await execCaptured(lxd, user.name, {
      command: ['sh', '-c', readTemplate('probe.sh'), 'probe', user.name],
      timeoutMs: LOOK_TIMEOUT_MS,
      maxBytes: 16 * 1024
    })
    const lines = stdout.split('\n').filter(line => line.trim() !== '')
    return lines.slice(0, MAX_FAULTS).map(lastLine)
  } catch (error) {
    if (!(error instanceof LxdError)) throw error
    return [error.fault === 'timed-out' ? 'Programs in the container hang.' : 'No program can be run in the container.']
  }
}

/** Does an SSH server greet at the fixed port (RFC 4253 section 4.2)? */
async function readBanner(node: NodeConfig, user: User): Promise<boolean> {
  const socket = connect({ host: fixedPortHost(node), port: user.fixedPort })
  try {
    const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(BANNER_TIMEOUT_MS) })) as [Buffer]
    return chunk.subarray(0, 4).toString() === 'SSH-'
  } catch {
    return false
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}
