import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The client certificate berth shows to LXD servers over HTTPS, and the server certificate it accepts, all PEM. */
export interface LxdCredentials {
  readonly cert: string
  readonly key: string
  readonly serverCertificate: string
}

/** Where they are kept; `berth node trust` writes them. */
export function credentialPaths(stateDir: string, nodeName: string) {
  const directory = join(stateDir, 'lxd')
  return {
    directory,
    cert: join(directory, 'client.crt'),
    key: join(directory, 'client.key'),
    serverCertificate: join(directory, `${nodeName}.crt`)
  }
}

/** Undefined until `berth node trust NODE` has been run. */
export function readCredentials(stateDir: string, nodeName: string): LxdCredentials | undefined {
  const paths = credentialPaths(stateDir, nodeName)
  if (![paths.cert, paths.key, paths.serverCertificate].every(path => existsSync(path))) return undefined
  return {
    cert: readFileSync(paths.cert, 'utf8'),
    key: readFileSync(paths.key, 'utf8'),
    serverCertificate: readFileSync(paths.serverCertificate, 'utf8')
  }
}
