import type { Argv } from 'yargs'
import { describeKeys } from '../command/describe-keys.ts'
import type { NodeOutcome } from '../containers/containers.ts'
import { linkUrl, webAddress } from '../directory/sign-in-links.ts'
import { UserError } from '../errors.ts'
import { type AdminGroup, defineCommand, jsonOption } from './admin-command.ts'
import { countOf, formatBytes } from '../command/units.ts'
import { type Console, formatTime } from './console.ts'
import { firstNode } from './invite.ts'
import { readKeyLines } from './key-files.ts'
import {
  addUser,
  type ContainerEntry,
  disableUser,
  enableUser,
  linkUser,
  listUsers,
  removeUser,
  showUser
} from './user-actions.ts'

const withName = (yargs: Argv) => yargs.positional('name', { type: 'string', demandOption: true, describe: 'the user' })

const add = defineCommand({
  command: 'add <name>',
  describe: 'make a user, with the keys that are at hand',
  epilogue: `The user gets a fixed port, the same on every node. Without a key at hand use \`berth invite NAME\` instead: it makes the
user and a code with which the member enrols a key.`,
  repeatable: ['key'],
  builder: yargs =>
    withName(yargs)
      .option('key', {
        type: 'string',
        array: true,
        nargs: 1,
        default: [] as string[],
        describe: 'file of a public key, such as id_ed25519.pub; may be repeated'
      })
      .option('port', { type: 'number', requiresArg: true, describe: 'the fixed port; default: the lowest free one' }),
  async handler({ name, key, port }, { console, perform, loadConfig }) {
    const node = firstNode(loadConfig())
    const keys = key.flatMap(readKeyLines)
    const user = await perform(addUser, { name, keys, ...(port === undefined ? {} : { port }) })
    console.out(
      `Added ${name}, fixed port ${user.fixedPort}${user.keys.map(entry => `, key ${entry.fingerprint}`).join('')}.`
    )
    if (keys.length === 0)
      return console.out(`${name} has no key yet. Make a code to enrol one with: berth invite ${name}`)
    console.out(`Send this to ${name}:

    ssh -p ${node.managePort} ${name}@${node.manageAddress} config >> ~/.ssh/config
    ssh register@${node.name}-manage ${name}
    ssh ${node.name}
`)
  }
})

const list = defineCommand({
  command: 'list',
  describe: 'all users',
  builder: yargs => yargs.option('json', jsonOption),
  async handler({ json }, { console, perform }) {
    const users = await perform(listUsers, {})
    if (json) return console.json(users)
    if (users.length === 0) return console.out('There are no users yet. Make one with: berth invite NAME')
    console.table(
      ['NAME', 'STATE', 'PORT', 'KEYS', 'CONTAINERS', 'SINCE'],
      users.map(user => [
        user.name,
        user.state,
        String(user.fixedPort),
        String(user.keys),
        user.nodes.join(' ') || '-',
        formatTime(user.createdAtMs)
      ])
    )
  }
})

const show = defineCommand({
  command: 'show <name>',
  describe: 'one user: keys, and the container on each node',
  builder: yargs => withName(yargs).option('json', jsonOption),
  async handler({ name, json }, { console, perform }) {
    const user = await perform(showUser, { name })
    if (json) return console.json(user)
    console.out(`${user.name}: ${user.state}, fixed port ${user.fixedPort}, since ${formatTime(user.createdAtMs)}`)
    console.out('')
    if (user.keys.length > 0) console.out(describeKeys(user.keys, formatTime))
    else console.out(`No key. Make a code to enrol one with: berth invite ${name}`)
    console.out('')
    if (user.containers.length > 0) printContainers(console, user.containers)
    else console.out('No container.')
    if (user.snapshots.length > 0)
      console.out(`\n${countSnapshots(user.snapshots)}; see: berth snapshot list --user ${name}`)
  }
})

const countSnapshots = (snapshots: readonly { sizeBytes: number }[]): string =>
  `${countOf(snapshots.length, 'snapshot')} (${formatBytes(snapshots.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0))})`

function printContainers(console: Console, containers: ContainerEntry[]): void {
  console.table(
    ['NODE', 'STATE', 'TEMPLATE', 'ADDRESS', 'MEMORY', 'DISK', 'FAULTS'],
    containers.map(({ node, status, fault }) =>
      status === undefined
        ? [node, '?', '', '', '', '', fault ?? '']
        : [
            node,
            status.state,
            status.template,
            status.address ?? '',
            status.memory.usedBytes === undefined ? '' : formatBytes(status.memory.usedBytes),
            status.disk.usedBytes === undefined ? '' : formatBytes(status.disk.usedBytes),
            status.faults.join('; ')
          ]
    )
  )
}

function printOutcomes(console: Console, name: string, nodes: NodeOutcome[]): number {
  for (const { node, outcome, fault } of nodes)
    console.out(`${name} on ${node}: ${outcome}${fault === undefined ? '' : `: ${fault}`}.`)
  return nodes.some(({ fault }) => fault !== undefined) ? 75 : 0
}

const link = defineCommand({
  command: 'link <name>',
  describe: 'make a link that signs a user in to the web pages, once',
  epilogue:
    'It works once, within 10 minutes. A new one ends the one before; so does `ssh NODE-manage web` of the member.',
  builder: yargs => withName(yargs).option('json', jsonOption),
  async handler({ name, json }, { console, perform, loadConfig }) {
    const address = webAddress(loadConfig().web)
    if (address === undefined) {
      throw new UserError('no-web', undefined, { hint: 'Set web.listen in berth.yaml, and restart berth.' })
    }
    const { secret, expiresAtMs } = await perform(linkUser, { name })
    const url = linkUrl(address, secret)
    if (json) return console.json({ name, url, expiresAtMs })
    console.out(url)
  }
})

const disable = defineCommand({
  command: 'disable <name>',
  describe: 'shut a user out everywhere',
  epilogue: `Ends the member's manage sessions, removes the forwards, which cuts the sessions into the containers, and stops the
containers. A node that is away is tried again until it answers. Nothing is deleted; \`user enable\` undoes it.`,
  builder: yargs =>
    withName(yargs).option('keep-running', {
      type: 'boolean',
      default: false,
      describe: 'let the containers run, without access (a long computation)'
    }),
  async handler({ name, keepRunning }, { console, perform }) {
    const nodes = await perform(disableUser, { name, keepRunning })
    console.out(`${name} is disabled and cannot log in any more.`)
    return printOutcomes(console, name, nodes)
  }
})

const enable = defineCommand({
  command: 'enable <name>',
  describe: 'let a disabled user in again',
  epilogue: 'The containers are started by the member, or by `berth` where they were left running.',
  builder: withName,
  async handler({ name }, { console, perform }) {
    const nodes = await perform(enableUser, { name })
    console.out(`${name} is enabled.`)
    return printOutcomes(console, name, nodes)
  }
})

const remove = defineCommand({
  command: 'remove <name>',
  describe: 'delete a user with all containers and snapshots',
  epilogue: 'Says what it deletes and asks for the name again.',
  builder: yargs =>
    withName(yargs).option('yes', { type: 'boolean', default: false, describe: 'do not ask (for scripts)' }),
  async handler({ name, yes }, { console, perform, loadConfig }) {
    const user = await perform(showUser, { name })
    const containers = user.containers.map(({ node, status, fault }) => `${node} (${status?.state ?? fault})`)
    console.out(`This deletes for good: the user ${name}, ${countOf(user.keys.length, 'key')}, the SSH host keys,
${countSnapshots(user.snapshots)}, and the containers with everything in them on: ${containers.join(', ') || 'no node'}. Port ${user.fixedPort} rests for 30 days.`)
    if (!yes) {
      const answer = await console.ask(`Type the name again to go on: `)
      if (answer === undefined) {
        throw new UserError('usage', 'There is no terminal to ask on, so nothing was deleted.', {
          hint: `If you are sure: berth user remove ${name} --yes`
        })
      }
      if (answer !== name) throw new UserError('usage', 'That is another name; nothing was deleted.', {})
    }
    const { containers: outcomes, directoryGone } = await perform(removeUser, { name })
    console.out(`${name} is removed.`)
    if (!directoryGone) {
      const { dir } = loadConfig().snapshots
      console.err(`${dir}/${name} holds files that are not berth's: look at them, then delete it.`)
    }
    return printOutcomes(console, name, outcomes)
  }
})

export const user: AdminGroup = {
  command: 'user',
  describe: 'members of the lab',
  commands: [add, list, show, link, disable, enable, remove]
}
