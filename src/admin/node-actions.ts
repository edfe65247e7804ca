import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { z } from 'zod'
import type { App } from '../app.ts'
import type { Config, NodeConfig } from '../config.ts'
import { ContainerRecords } from '../containers/records.ts'
import { blame } from '../containers/translate.ts'
import { UserError } from '../errors.ts'
import { joinTrust } from '../lxd/certificates.ts'
import { credentialPaths } from '../lxd/credentials.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import { getServer } from '../lxd/server.ts'
import { defineAction } from './action.ts'

/** @throws UserError `unknown-node` */
export function needNode(config: Config, name: string): NodeConfig {
  const node = config.nodes.get(name)
  if (node !== undefined) return node
  throw new UserError('unknown-node', `${config.path} has no node ${JSON.stringify(name)}.`, {
    hint: `It has: ${[...config.nodes.keys()].join(', ')}.`
  })
}

export interface NodeEntry {
  name: string
  lxd: string
  address: string
  managePort: number
  containers: number
  server?: string
  fault?: string
}

async function describeNode(app: App, node: NodeConfig): Promise<NodeEntry> {
  const entry = {
    name: node.name,
    lxd: node.lxd,
    address: node.address,
    managePort: node.managePort,
    containers: new ContainerRecords(app.database).listOn(node.name).length
  }
  try {
    const { kind, version, trusted } = await getServer(app.lxdFor(node))
    if (!trusted) return { ...entry, fault: 'does not trust berth' }
    return { ...entry, server: `${kind === 'incus' ? 'Incus' : 'LXD'} ${version}` }
  } catch (error) {
    if (!(error instanceof LxdError || error instanceof UserError)) throw error
    return { ...entry, fault: error.message }
  }
}

export const listNodes = defineAction(
  'node.list',
  z.strictObject({}),
  app => Promise.all([...app.config.nodes.values()].map(node => describeNode(app, node))),
  { readOnly: true }
)

/**
 * Pins the certificate of an HTTPS node, makes berth's own client certificate where there is none, and asks the node to trust it
 * when a token is given.
 */
export const trustNode = defineAction(
  'node.trust',
  z.strictObject({ name: z.string(), certificate: z.string(), token: z.string().optional() }),
  async (app, { name, certificate, token }) => {
    const node = needNode(app.config, name)
    const paths = credentialPaths(app.config.stateDir, name)
    mkdirSync(paths.directory, { recursive: true, mode: 0o700 })
    if (!existsSync(paths.cert)) await makeClientCertificate(paths)
    writeWhole(paths.serverCertificate, certificate)
    await app.reconnect(node)
    const lxd = app.lxdFor(node).inProject('default')
    const unavailable = blame(node, 'node-unavailable', `Then again: berth node trust ${name}`)
    const { trusted } = await getServer(lxd).catch(unavailable)
    if (trusted) return { trusted }
    if (token === undefined) return { trusted }
    await joinTrust(lxd, 'berth', token).catch(
      blame(node, 'not-allowed', 'A token works once and for a time: make a new one on the node.')
    )
    return { trusted: (await getServer(lxd).catch(unavailable)).trusted }
  }
)

/** Self-signed, P-384, ten years: LXD compares the certificate itself and asks no authority. */
async function makeClientCertificate({ cert, key }: { cert: string; key: string }): Promise<void> {
  const [newCert, newKey] = [`${cert}.new`, `${key}.new`]
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:secp384r1', '-nodes', '-sha384', '-days', '3650']
  try {
    await promisify(execFile)('openssl', [
      'req',
      '-x509',
      ...kind,
      '-subj',
      '/O=berth/CN=berth',
      '-keyout',
      newKey,
      '-out',
      newCert
    ])
  } catch (error) {
    throw new UserError('cannot-create', 'openssl made no client certificate.', {
      hint: 'apt-get install openssl',
      cause: error
    })
  }
  writeWhole(key, readFileSync(newKey, 'utf8'))
  writeWhole(cert, readFileSync(newCert, 'utf8'))
}

function writeWhole(path: string, text: string): void {
  writeFileSync(`${path}.new`, text, { mode: 0o600, flush: true })
  renameSync(`${path}.new`, path)
}

export const nodeActions = [listNodes, trustNode]
