import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { apiPath, type ApiPath } from '../../src/lxd/api-path.ts'
import { LxdError } from '../../src/lxd/lxd-error.ts'
import {
  createInstance,
  findInstance,
  getInstance,
  listInstances,
  setInstanceState,
  STATUS
} from '../../src/lxd/instances.ts'
import { profiles } from '../../src/lxd/profiles.ts'
import { getServer, isSupported } from '../../src/lxd/server.ts'
import { waitForOperation } from '../../src/lxd/wait.ts'
import { IMAGE, KINDS, MAIN_WAYS, openProject, type TestProject } from './servers.ts'

describe.each(MAIN_WAYS)('$kind over $over', way => {
  let project: TestProject
  beforeAll(async () => {
    project = await openProject(way)
  })
  afterAll(() => project[Symbol.asyncDispose]())

  test('the server says what it is', async () => {
    const server = await getServer(project.lxd)
    expect(server).toMatchObject({ kind: way.kind, trusted: true, clustered: false, firewall: 'nftables' })
    expect(server.version).toMatch(/^\d+\.\d+/)
    expect(isSupported(server)).toBe(true)
    expect(server.extensions.has('network_bridge_acl')).toBe(true)
    expect(server.addresses).toContain(project.server.httpsAddress)
    expect(server.certificateFingerprint).toMatch(/^[0-9a-f]{64}$/)
    expect(server.config['core.https_address']).toBe(project.server.httpsAddress)
  })

  test('what is not there is undefined to find and 404 to get', async () => {
    expect(await findInstance(project.lxd, 'nobody')).toBeUndefined()
    await expect(getInstance(project.lxd, 'nobody')).rejects.toMatchObject({ fault: 'refused', status: 404 })
    expect(await listInstances(project.lxd)).toEqual([])
  })

  test('a name cannot become a path or a query', async () => {
    const inside = await findInstance(project.lxd, '../projects').catch((error: unknown) => error)
    expect(inside instanceof LxdError ? [400, 404].includes(inside.status) : inside === undefined).toBe(true)
    const other = await findInstance(project.lxd, 'x?project=default&recursion=1').catch((error: unknown) => error)
    expect(other instanceof LxdError ? [400, 404].includes(other.status) : other === undefined).toBe(true)
    await expect(getInstance(project.lxd, '..')).rejects.toThrow(TypeError)
  })

  test('a client sees its own project, and another through inProject', async () => {
    await profiles.create(project.lxd, { name: 'mine', config: {}, devices: {} })
    expect(await profiles.find(project.lxd, 'mine')).toMatchObject({ name: 'mine', etag: expect.stringMatching(/./) })
    expect(await profiles.find(project.lxd.inProject('default'), 'mine')).toBeUndefined()
    await profiles.remove(project.lxd, 'mine')
  })

  test('an update with an old etag is refused with 412 and changes nothing', async () => {
    await profiles.create(project.lxd, { name: 'tagged', config: {}, devices: {} })
    const before = await profiles.find(project.lxd, 'tagged')
    await profiles.update(project.lxd, 'tagged', { description: 'first', config: {}, devices: {} }, before?.etag)
    const late = profiles.update(project.lxd, 'tagged', { description: 'late', config: {}, devices: {} }, before?.etag)
    await expect(late).rejects.toMatchObject({ fault: 'refused', status: 412 })
    expect(await profiles.find(project.lxd, 'tagged')).toMatchObject({ description: 'first' })
    await profiles.remove(project.lxd, 'tagged')
  })

  test('a refused change carries the status and the words of LXD', async () => {
    const again = profiles.create(project.lxd, { name: 'default', config: {}, devices: {} })
    await expect(again).rejects.toMatchObject({ fault: 'refused', message: expect.stringMatching(/profile.*exists/i) })
    const nonsense = project.lxd.begin('POST', apiPath`/1.0/instances`, { json: { name: 'bad name' } })
    await expect(nonsense).rejects.toMatchObject({ fault: 'refused', status: 400 })
  })

  test('an operation that fails is told apart from a refusal, with its id', async () => {
    await createInstance(project.lxd, { name: 'source', source: { type: 'image', alias: IMAGE } })
    const failed = setInstanceState(project.lxd, 'source', 'stop')
    await expect(failed).rejects.toMatchObject({ fault: 'failed', status: 400, operation: expect.stringMatching(/-/) })
  })

  test('aborting ends our waiting at once with the reason given, and LXD goes on', async () => {
    const leaving = new AbortController()
    const reason = new Error('gone')
    const json = { name: 'copied', source: { type: 'copy', source: 'source' }, profiles: ['default'] }
    const begun = await project.lxd.begin('POST', apiPath`/1.0/instances`, { json })
    const copied = waitForOperation(project.lxd, begun as NonNullable<typeof begun>, { signal: leaving.signal })
    // At once: a copy can be made in less than any time one might wait.
    leaving.abort(reason)
    await expect(copied).rejects.toBe(reason)
    await expect.poll(() => findInstance(project.lxd, 'copied')).toBeDefined()
  })

  test('a time limit of ours is fault timed-out, status 0', async () => {
    const limited = setInstanceState(project.lxd, 'source', 'start', { timeoutMs: 1 })
    await expect(limited).rejects.toMatchObject({ fault: 'timed-out', status: 0 })
    const statusCode = async () => (await getInstance(project.lxd, 'source')).status_code
    await expect.poll(statusCode).toBe(STATUS.running)
  })

  test('an answer of another shape is not believed', async () => {
    const answer = project.lxd.get(apiPath`/1.0`, z.object({ api_version: z.number() }))
    await expect(answer).rejects.toMatchObject({
      fault: 'not-understood',
      message: expect.stringContaining('api_version')
    })
    const notJson = project.lxd.get('/1.0/nowhere' as ApiPath, z.any())
    await expect(notJson).rejects.toMatchObject({ fault: 'refused', status: 404 })
  })

  test('more bytes than allowed are not read', async () => {
    const answer = project.lxd.raw('GET', apiPath`/1.0`, { maxBytes: 100 })
    await expect(answer).rejects.toMatchObject({ fault: 'too-much' })
  })
})

test.each(KINDS)('progress of an operation of %s is told while it runs', async kind => {
  await using project = await openProject({ kind, over: 'unix' })
  await createInstance(project.lxd, { name: 'source', source: { type: 'image', alias: IMAGE } })
  const steps: unknown[] = []
  await project.lxd.operate('POST', apiPath`/1.0/instances/${'source'}/backups`, {
    json: { name: project.name, compression_algorithm: 'none' },
    onProgress: (step, fraction) => steps.push([step, fraction])
  })
  expect(steps).toContainEqual([expect.stringMatching(/^create backup \d/), undefined])
})
