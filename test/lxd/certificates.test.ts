import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { apiPath } from '../../src/lxd/api-path.ts'
import { fetchServerCertificate, fingerprintOf, joinTrust, parseTrustToken } from '../../src/lxd/certificates.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { listInstances } from '../../src/lxd/instances.ts'
import { getServer } from '../../src/lxd/server.ts'
import type { LabServer } from '../lab/server.ts'
import { KINDS, labServer, makeIdentity, makeTrustToken } from './servers.ts'

describe.each(KINDS)('%s', kind => {
  let server: LabServer
  let admin: LxdClient
  let url: string
  beforeAll(async () => {
    server = await labServer(kind)
    admin = new LxdClient({ url: `unix://${server.lxdSocket}` })
    url = `https://${server.httpsAddress}`
  })
  afterAll(() => admin.close())

  test('a token makes a stranger trusted, once', async () => {
    const token = await makeTrustToken(admin, 'newcomer')
    const parsed = parseTrustToken(token)
    const shown = await fetchServerCertificate(url)
    expect(parsed?.fingerprint).toBe(shown.fingerprint)
    expect(fingerprintOf(shown.certificate)).toBe((await getServer(admin)).certificateFingerprint)

    const identity = await makeIdentity()
    const client = new LxdClient({ url, tls: { ...identity, serverCertificate: shown.certificate } })
    expect(await getServer(client)).toMatchObject({ trusted: false })
    await expect(listInstances(client)).rejects.toMatchObject({ fault: 'refused', status: 403 })
    await joinTrust(client, 'newcomer', token)
    expect(await getServer(client)).toMatchObject({ trusted: true, kind })
    expect(await listInstances(client)).toEqual(expect.any(Array))

    const second = new LxdClient({ url, tls: { ...(await makeIdentity()), serverCertificate: shown.certificate } })
    await expect(joinTrust(second, 'second', token)).rejects.toMatchObject({ fault: 'refused', status: 403 })
    await admin.operate('DELETE', apiPath`/1.0/certificates/${fingerprintOf(identity.cert)}`)
    expect(await getServer(client)).toMatchObject({ trusted: false })
    await Promise.all([client.close(), second.close()])
  })

  test('a server that shows another certificate is not spoken to', async () => {
    const identity = await makeIdentity()
    const wrong = new LxdClient({ url, tls: { ...identity, serverCertificate: (await makeIdentity()).cert } })
    const refused = { fault: 'unreachable', status: 0, message: expect.stringContaining('another certificate') }
    await expect(getServer(wrong)).rejects.toMatchObject(refused)
    await expect(wrong.openWebSocket(apiPath`/1.0/events`)).rejects.toMatchObject(refused)
    await wrong.close()
  })
})

test.each([
  '',
  'not base64 !',
  Buffer.from('{}').toString('base64'),
  Buffer.from('{"fingerprint":1}').toString('base64')
])('%j is no trust token', token => {
  expect(parseTrustToken(token)).toBeUndefined()
})

test('an endpoint berth cannot use is refused at once', async () => {
  expect(() => new LxdClient({ url: 'https://127.0.0.1:1' })).toThrow('client certificate')
  expect(() => new LxdClient({ url: 'ftp://127.0.0.1' })).toThrow('unix:///')
})
