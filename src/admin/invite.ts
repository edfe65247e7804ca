import { z } from 'zod'
import { enrolLine } from '../command/lines.ts'
import type { Config, NodeConfig } from '../config.ts'
import { defineAction } from './action.ts'
import { defineCommand, jsonOption } from './admin-command.ts'
import { fingerprintOf, parsePublicKey } from '../directory/public-key.ts'
import { inviteUrl, webAddress } from '../directory/sign-in-links.ts'
import { formatTime } from './console.ts'

const createInvite = defineAction('invite', z.strictObject({ name: z.string() }), (app, { name }) => {
  const { user, ...invite } = app.members.invite(name)
  const hostKeyFingerprint = fingerprintOf(parsePublicKey(app.hostKey().publicKey).blob)
  return { ...invite, state: user.state, fixedPort: user.fixedPort, hostKeyFingerprint }
})

export const inviteActions = [createInvite]

/** The node a member meets first: the first of berth.yaml. */
export const firstNode = (config: Config): NodeConfig => [...config.nodes.values()][0] as NodeConfig

export const invite = defineCommand({
  command: 'invite <name>',
  describe: 'make a one-time code with which a member enrols a key',
  epilogue: `Creates the user where there is none. Also for a member who lost every key. The code is valid 7 days; a new one
ends the one before. The key enrolled is the one that the member's SSH client has just proven.`,
  builder: yargs =>
    yargs.positional('name', { type: 'string', demandOption: true, describe: 'the user' }).option('json', jsonOption),
  async handler({ name, json }, { console, perform, loadConfig }) {
    const config = loadConfig()
    const made = await perform(createInvite, { name })
    const { created, state, fixedPort, code, expiresAtMs, ended, hostKeyFingerprint } = made
    const nodes = [...config.nodes.values()]
    const address = webAddress(config.web)
    const link = address === undefined ? undefined : inviteUrl(address, code)
    const lines = nodes.map(node => ({ node: node.name, line: enrolLine(node, name, code) }))
    if (json)
      return console.json({ name, created, fixedPort, code, expiresAtMs, ended, hostKeyFingerprint, lines, link })
    if (created) console.out(`User ${name} is new, with fixed port ${fixedPort}.`)
    if (ended) console.out(`The invite that ${name} had before has ended: only this one works.`)
    if (state === 'disabled') console.err(`${name} is disabled: the code works after \`berth user enable ${name}\`.`)
    console.out(`Send this to ${name}; it works once, until ${formatTime(expiresAtMs)}:

    # if ~/.ssh/id_ed25519 does not exist yet:
    ssh-keygen -t ed25519
    # then, once; ssh asks whether to trust the server, whose key is
    # ${hostKeyFingerprint}
    ${(lines[0] as { line: string }).line}
`)
    if (link !== undefined && config.web.publicUrl !== undefined)
      console.out(`Or this, for the browser; the code works for one of the two:

    ${link}
`)
    if (nodes.length > 1) {
      const others = nodes.slice(1).map(node => `${node.manageAddress} port ${node.managePort}`)
      console.out(`One enrolment is good for all nodes. The same line works through ${others.join(', ')}.`)
    }
  }
})
