import { z } from 'zod'
import type { App } from '../app.ts'
import { describeKeys, keyEntry } from '../command/describe-keys.ts'
import type { KeyPush } from '../containers/containers.ts'
import { parsePublicKey } from '../directory/public-key.ts'
import { defineAction } from './action.ts'
import { type AdminGroup, defineCommand, jsonOption } from './admin-command.ts'
import { type Console, formatTime } from './console.ts'
import { readKeyLines } from './key-files.ts'

const addKeys = defineAction(
  'key.add',
  z.strictObject({ name: z.string(), keys: z.array(z.string()).min(1) }),
  async (app: App, { name, keys }) => {
    const user = app.users.need(name)
    const parsed = keys.map(parsePublicKey)
    const added = app.database.transaction(() => parsed.map(key => app.keys.add(user, key))).immediate()
    return { added: added.map(keyEntry), pushes: await app.containers.pushKeys(user) }
  }
)

const listKeys = defineAction(
  'key.list',
  z.strictObject({ name: z.string() }),
  (app, { name }) => app.keys.listFor(app.users.need(name)).map(keyEntry),
  { readOnly: true }
)

const removeKey = defineAction(
  'key.remove',
  z.strictObject({ name: z.string(), fingerprint: z.string() }),
  async (app, { name, fingerprint }) => {
    const user = app.users.need(name)
    const removed = app.keys.remove(user, fingerprint, { evenLast: true })
    return {
      removed: keyEntry(removed),
      left: app.keys.listFor(user).length,
      pushes: await app.containers.pushKeys(user)
    }
  }
)

export const keyActions = [addKeys, listKeys, removeKey]

const OUTCOMES: Record<KeyPush['outcome'], string> = {
  pushed: 'has the new list of keys',
  'at-next-start': 'gets the new list at its next start',
  'no-container': '',
  failed: 'could not be told',
  'node-unavailable': 'does not answer; it gets the new list later'
}

function printPushes(console: Console, name: string, pushes: KeyPush[]): void {
  for (const push of pushes) {
    if (push.outcome === 'no-container') continue
    console.out(
      `${name} on ${push.node} ${OUTCOMES[push.outcome]}${push.fault === undefined ? '' : `: ${push.fault}`}.`
    )
  }
}

export const key: AdminGroup = {
  command: 'key',
  describe: "members' SSH keys",
  commands: [
    defineCommand({
      command: 'add <name> <file>',
      describe: 'give a user the public keys of a file (- for standard input)',
      epilogue: 'Running containers take it at once, stopped ones at their next start.',
      builder: yargs =>
        yargs
          .positional('name', { type: 'string', demandOption: true, describe: 'the user' })
          .positional('file', { type: 'string', demandOption: true, describe: 'such as id_ed25519.pub' }),
      async handler({ name, file }, { console, perform }) {
        const { added, pushes } = await perform(addKeys, { name, keys: readKeyLines(file) })
        for (const entry of added)
          console.out(`Added ${entry.fingerprint} (${entry.type} ${entry.comment}) to ${name}.`)
        printPushes(console, name, pushes)
      }
    }),
    defineCommand({
      command: 'list <name>',
      describe: "a user's keys",
      builder: yargs =>
        yargs
          .positional('name', { type: 'string', demandOption: true, describe: 'the user' })
          .option('json', jsonOption),
      async handler({ name, json }, { console, perform }) {
        const keys = await perform(listKeys, { name })
        if (json) return console.json(keys)
        if (keys.length > 0) return console.out(describeKeys(keys, formatTime))
        console.out(`${name} has no key. Make a code to enrol one with: berth invite ${name}`)
      }
    }),
    defineCommand({
      command: 'remove <name> <fingerprint>',
      describe: 'take a key from a user',
      epilogue: `Ends logins by berth's own list of keys, at the manage endpoint and in the containers. What the member put into
~/.ssh/authorized_keys in the container, and sessions that are open, are not touched: \`berth user disable\` ends everything.`,
      builder: yargs =>
        yargs
          .positional('name', { type: 'string', demandOption: true, describe: 'the user' })
          .positional('fingerprint', {
            type: 'string',
            demandOption: true,
            describe: 'SHA256:…, as `key list` shows it'
          }),
      async handler({ name, fingerprint }, { console, perform }) {
        const { removed, left, pushes } = await perform(removeKey, { name, fingerprint })
        console.out(`Removed ${removed.fingerprint} (${removed.type} ${removed.comment}) from ${name}.`)
        printPushes(console, name, pushes)
        console.out(
          `The member's own ~/.ssh/authorized_keys and open sessions are not touched; berth user disable ${name} ends those.`
        )
        if (left === 0) console.out(`That was the last one. For a new key: berth invite ${name}`)
      }
    })
  ]
}
