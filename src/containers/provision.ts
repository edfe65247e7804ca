import { Writable } from 'node:stream'
import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { LxdClient } from '../lxd/client.ts'
import { exec } from '../lxd/exec.ts'
import type { Report } from '../operations/operations.ts'
import { lastLine } from './authorized-keys.ts'
import { nameTaken } from './create.ts'
import type { Forwarding } from './instance-plan.ts'
import { readTemplate } from './templates.ts'
import { blame } from './translate.ts'

const PROVISION_TIMEOUT_MS = 4 * 60_000
const MAX_OUTPUT_BYTES = 64 * 1024
const IMAGE_LACKS = 10
const NAME_TAKEN = 11

/**
 * Runs templates/provision.sh in the running container; safe to repeat.
 * @throws UserError `image-unfit`, `bad-user-name`, `provisioning-failed`
 */
export async function provision(
  lxd: LxdClient,
  user: User,
  node: NodeConfig,
  forwarding: Forwarding,
  report: Report
): Promise<void> {
  const again = `Try again with: ssh ${node.name}-manage start. If it stays so, tell your admin.`
  let errors = ''
  const { exitCode } = await exec(lxd, user.name, {
    command: ['sh', '-c', readTemplate('provision.sh'), 'provision', user.name, forwarding],
    stdout: byLine(line => report(line)),
    stderr: byLine(line => (errors = line)),
    timeoutMs: PROVISION_TIMEOUT_MS
  }).catch(blame(node, 'provisioning-failed', again))
  if (exitCode === 0) return
  const words = lastLine(errors) || `The set-up script ended with status ${exitCode}.`
  if (exitCode === NAME_TAKEN) throw nameTaken(user)
  if (exitCode === IMAGE_LACKS) {
    throw new UserError('image-unfit', words, { hint: 'Your admin can mend the image of this template.' })
  }
  throw new UserError('provisioning-failed', words, { hint: again })
}

/** Whole lines, made fit to be shown; what goes beyond the bound is not kept. */
function byLine(onLine: (line: string) => void): Writable {
  let rest = ''
  let sizeBytes = 0
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      sizeBytes += chunk.length
      if (sizeBytes <= MAX_OUTPUT_BYTES) {
        const lines = (rest + chunk.toString()).split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines) if (line.trim() !== '') onLine(lastLine(line))
      }
      done()
    }
  })
}
