import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectRest } from './rest.ts'
import { run } from './run.ts'
import type { LabServer } from './server.ts'

/** What a client over HTTPS needs (PEM): its certificate and key, and the server's certificate to pin. */
export interface ClientIdentity {
  cert: string
  key: string
  serverCertificate: string
}

/** Makes a client certificate and puts it into the server's trust store (POST /1.0/certificates). */
export async function trustNewClient(server: LabServer): Promise<ClientIdentity> {
  const directory = await mkdtemp(join(tmpdir(), 'berth-lab-client-'))
  const rest = connectRest(server.lxdSocket)
  try {
    const [certPath, keyPath] = [join(directory, 'client.crt'), join(directory, 'client.key')]
    const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384', '-nodes', '-days', '2']
    await run('openssl', ...request, '-subj', '/CN=berth-lab', '-keyout', keyPath, '-out', certPath)
    const cert = await readFile(certPath, 'utf8')
    const certificate = cert.replaceAll(/-----[A-Z ]+-----|\s/g, '')
    await rest.call('POST', '/1.0/certificates', { type: 'client', name: 'berth-lab', certificate })
    const serverCertificate = await readFile(join(server.lxdDir, 'server.crt'), 'utf8')
    return { cert, key: await readFile(keyPath, 'utf8'), serverCertificate }
  } finally {
    await rest.close()
    await rm(directory, { recursive: true })
  }
}
