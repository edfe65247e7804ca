import { defineCommand, type Command, type Invocation } from '../src/command/command.ts'
import { describeKeys, keyEntry } from '../src/command/describe-keys.ts'
import { manageLine } from '../src/command/lines.ts'
import { requireUser } from '../src/command/require-user.ts'
import { formatTime } from '../src/command/units.ts'
import type { Containers, KeyPush } from '../src/containers/containers.ts'
import type { Keys, UserKey } from '../src/directory/keys.ts'
import { addKeyLines, keyLines } from '../src/directory/key-lines.ts'
import type { User } from '../src/directory/users.ts'
import { UserError } from '../src/errors.ts'

const MAX_INPUT_BYTES = 64 * 1024
const PATIENCE_MS = 2000

interface Parts {
  keys: Keys
  containers: Containers
}

export default ({ keys, containers }: Parts): Command =>
  defineCommand({
    command: 'keys [action] [fingerprint]',
    describe: 'list your SSH keys; `keys add < FILE.pub`; `keys remove`',
    epilogue: [
      'Add one:  ssh NODE-manage keys add < ~/.ssh/id_ed25519.pub',
      'A change works at once on every node and in every running container, and in a stopped one at its next start.',
      "Removing a key ends logins by berth's list; what you wrote into ~/.ssh/authorized_keys yourself stays, and open sessions go on."
    ].join('\n'),
    allowedFor: ['member'],
    builder: yargs =>
      yargs
        .positional('action', {
          type: 'string',
          choices: ['list', 'add', 'remove'] as const,
          default: 'list' as const,
          describe: 'what to do'
        })
        .positional('fingerprint', { type: 'string', describe: 'SHA256:… of the key to remove' })
        .option('json', { type: 'boolean', default: false, describe: 'as one JSON document' }),
    async handler({ action, fingerprint, json }, invocation) {
      const user = requireUser(invocation.principal)
      const { reply, node } = invocation
      if ((action === 'remove') !== (fingerprint !== undefined)) {
        throw new UserError('usage', action === 'remove' ? 'Which key? Its fingerprint is missing.' : undefined, {
          hint: `See: ${manageLine(node, 'keys')}`
        })
      }
      if (action === 'add') {
        const added = addKeys(keys, user, await readLines(invocation))
        await tellEffect(
          user,
          json,
          { added: added.map(key => key.fingerprint) },
          added.map(key => `Added ${describeKey(key)}`),
          containers,
          invocation
        )
      } else if (action === 'remove') {
        const removed = keys.remove(user, fingerprint as string)
        await tellEffect(
          user,
          json,
          { removed: removed.fingerprint },
          [`Removed ${describeKey(removed)}`],
          containers,
          invocation
        )
      } else {
        const list = keys.listFor(user).map(keyEntry)
        if (json) reply.json(list)
        else reply.out(describeKeys(list, formatTime, invocation.principal.key.fingerprint))
      }
    }
  })

function addKeys(keys: Keys, user: User, lines: string[]): UserKey[] {
  if (lines.length === 0) {
    throw new UserError('bad-key', 'Standard input held no key.', {
      hint: 'Type: ssh NODE-manage keys add < ~/.ssh/id_ed25519.pub'
    })
  }
  return addKeyLines(keys, user, lines)
}

/** Standard input to its end; who left it to the terminal is told what is waited for. */
async function readLines({ stdin, reply, node }: Invocation): Promise<string[]> {
  const waiting = setTimeout(() => {
    reply.err('Waiting for a public key: paste it, then press Enter and Ctrl-D. Or press Ctrl-C, and type:')
    reply.err(`  ${manageLine(node, 'keys add < ~/.ssh/id_ed25519.pub')}`)
  }, PATIENCE_MS)
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of stdin as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length
    if (sizeBytes > MAX_INPUT_BYTES) throw new UserError('bad-key', 'That is too long for a list of public keys.')
    clearTimeout(waiting)
    chunks.push(chunk)
  }
  clearTimeout(waiting)
  return keyLines(Buffer.concat(chunks).toString('utf8'))
}

async function tellEffect(
  user: User,
  json: boolean,
  change: object,
  lines: string[],
  containers: Containers,
  { reply }: Invocation
): Promise<void> {
  const pushes = await containers.pushKeys(user)
  if (json) {
    reply.json({ ...change, containers: pushes })
    return
  }
  for (const line of lines) reply.out(line)
  for (const push of pushes) if (push.outcome !== 'no-container') reply.out(`  ${push.node}: ${describePush(push)}`)
}

function describePush({ outcome, fault }: KeyPush): string {
  switch (outcome) {
    case 'pushed':
      return 'in effect in your container'
    case 'at-next-start':
      return 'your container is stopped: in effect at its next start'
    case 'node-unavailable':
      return 'the node does not answer: in effect at the next start or when it is back'
    case 'failed':
      return `not written into your container: ${fault ?? 'unknown fault'}`
    case 'no-container':
      return 'no container'
  }
}

const describeKey = (key: UserKey): string => `${key.type} ${key.fingerprint}${key.comment && ` (${key.comment})`}`
