import type { NodeConfig } from '../config.ts'
import { blame } from '../containers/translate.ts'
import { UserError } from '../errors.ts'
import { fetchServerCertificate, parseTrustToken } from '../lxd/certificates.ts'
import { type AdminGroup, type AdminSession, defineCommand, jsonOption } from './admin-command.ts'
import { examine, printReports } from './doctor.ts'
import { listNodes, needNode, trustNode } from './node-actions.ts'

const list = defineCommand({
  command: 'list',
  describe: 'the nodes of berth.yaml, and whether each answers',
  builder: yargs => yargs.option('json', jsonOption),
  async handler({ json }, { console, perform }) {
    const nodes = await perform(listNodes, {})
    if (json) return console.json(nodes)
    console.table(
      ['NODE', 'ADDRESS', 'MANAGE', 'CONTAINERS', 'SERVER', 'LXD'],
      nodes.map(node => [
        node.name,
        node.address,
        String(node.managePort),
        String(node.containers),
        node.server ?? console.colors.red(node.fault ?? '?'),
        node.lxd
      ])
    )
  }
})

const check = defineCommand({
  command: 'check <name>',
  describe: 'look for faults of one node, and say what mends them',
  epilogue: 'The part of `berth doctor` that concerns this node. Exit code 1 if there is any fault.',
  builder: yargs =>
    yargs.positional('name', { type: 'string', demandOption: true, describe: 'the node' }).option('json', jsonOption),
  async handler({ name, json }, { console, loadConfig }) {
    const config = loadConfig()
    const node = needNode(config, name)
    console.report(`looking at ${name}`)
    return printReports(console, await examine(config, node.name), json)
  }
})

const trust = defineCommand({
  command: 'trust <name>',
  describe: 'let berth and a node that is reached by HTTPS trust one another',
  epilogue: `On the node type \`lxc config trust add --name berth\` (Incus: \`incus config trust add berth\`): it prints a token. The token
proves the node to berth and berth to the node. Without one, berth shows the node's certificate and asks.
Again after the node was installed anew.`,
  builder: yargs =>
    yargs
      .positional('name', { type: 'string', demandOption: true, describe: 'the node' })
      .option('token', {
        type: 'string',
        requiresArg: true,
        describe: 'what the node printed; asked for when left out'
      })
      .option('fingerprint', {
        type: 'string',
        requiresArg: true,
        describe: "SHA-256 of the node's certificate, as its `lxc info` shows it; then nothing is asked"
      }),
  async handler({ name, token, fingerprint }, session) {
    const { console, perform, loadConfig } = session
    const node = needNode(loadConfig(), name)
    if (!node.lxd.startsWith('https:')) {
      throw new UserError('usage', `${name} is reached through ${node.lxd}, which needs no trust.`, {
        hint: `Is it well? berth node check ${name}`
      })
    }
    const certificate = await verifyCertificate(node, { token, fingerprint }, session)
    const join = (given: string | undefined) =>
      perform(trustNode, { name, certificate, ...(given === undefined ? {} : { token: given }) })
    let { trusted } = await join(token)
    if (!trusted && token === undefined) {
      console.err(`On ${name} type: lxc config trust add --name berth      (Incus: incus config trust add berth)`)
      const typed = await console.ask('and paste the token it prints: ')
      if (typed !== undefined && typed !== '') ({ trusted } = await join(typed))
    }
    if (!trusted) {
      throw new UserError('node-unavailable', `${name} does not trust berth yet; its certificate is noted.`, {
        hint: `With the token that \`lxc config trust add --name berth\` prints on ${name}: berth node trust ${name} --token TOKEN`
      })
    }
    console.out(`${name} and berth trust one another. Is it well? berth node check ${name}`)
  }
})

/** The certificate the node shows, once a token, a fingerprint or the admin has said that it is the node's own. */
async function verifyCertificate(
  node: NodeConfig,
  known: { token: string | undefined; fingerprint: string | undefined },
  { console }: AdminSession
): Promise<string> {
  const shown = await fetchServerCertificate(node.lxd).catch(
    blame(node, 'node-unavailable', 'On the node: lxc config set core.https_address :8443')
  )
  const token = known.token === undefined ? undefined : parseTrustToken(known.token)
  if (known.token !== undefined && token === undefined) {
    throw new UserError('usage', 'That token is cut short, or is none.', {
      hint: 'Copy the whole line that the node printed.'
    })
  }
  const expected = token?.fingerprint ?? known.fingerprint?.replaceAll(':', '').toLowerCase()
  if (expected === shown.fingerprint) return shown.certificate
  if (expected !== undefined) {
    throw new UserError(
      'not-allowed',
      `${node.lxd} shows another certificate: ${shown.fingerprint}, not ${expected}.`,
      {
        hint: 'Somebody may be in between, or the address is wrong. Nothing was changed.'
      }
    )
  }
  console.err(`${node.lxd} shows the certificate ${shown.fingerprint}`)
  const answer = await console.ask(`Does \`lxc info | grep fingerprint\` on ${node.name} show the same? [y/N] `)
  if (answer !== undefined && /^y(es)?$/i.test(answer)) return shown.certificate
  throw new UserError('usage', 'The certificate was not confirmed; nothing was changed.', {
    hint: `If it is right: berth node trust ${node.name} --fingerprint ${shown.fingerprint}`
  })
}

export const node: AdminGroup = {
  command: 'node',
  describe: 'the GPU servers, each with LXD or Incus',
  commands: [list, check, trust]
}
