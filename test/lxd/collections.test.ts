import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { followEvents, type LxdEvent } from '../../src/lxd/events.ts'
import { deleteImage, findImage, importImage, listImages, setImageAlias } from '../../src/lxd/images.ts'
import { createInstance } from '../../src/lxd/instances.ts'
import { networkAcls } from '../../src/lxd/network-acls.ts'
import { listLeases, networks } from '../../src/lxd/networks.ts'
import { profiles } from '../../src/lxd/profiles.ts'
import { projects } from '../../src/lxd/projects.ts'
import { getResources } from '../../src/lxd/resources.ts'
import { findPool, getPoolUsage, listPools } from '../../src/lxd/storage.ts'
import { IMAGE, openProject, WAYS, type TestProject } from './servers.ts'
import { later } from '../suite.ts'

describe.each(WAYS)('$kind over $over', way => {
  let project: TestProject
  beforeAll(async () => {
    project = await openProject(way)
  })
  afterAll(() => project[Symbol.asyncDispose]())

  test('profiles are made, found, replaced and removed', async () => {
    const { lxd } = project
    await profiles.create(lxd, { name: 'p', description: 'd', config: { 'limits.cpu': '1' }, devices: {} })
    const found = await profiles.find(lxd, 'p')
    expect(found).toMatchObject({ description: 'd', config: { 'limits.cpu': '1' }, devices: {}, used_by: [] })
    const devices = { eth0: { type: 'none' } }
    await profiles.update(lxd, 'p', { description: 'new', config: {}, devices }, found?.etag)
    expect(await profiles.find(lxd, 'p')).toMatchObject({ description: 'new', config: {}, devices })
    expect((await profiles.list(lxd)).map(({ name }) => name).sort()).toEqual(['default', 'p'])
    await profiles.remove(lxd, 'p')
    expect(await profiles.find(lxd, 'p')).toBeUndefined()
    await expect(profiles.remove(lxd, 'p')).rejects.toMatchObject({ fault: 'refused', status: 404 })
    await expect(profiles.update(lxd, 'p', { config: {}, devices }, undefined)).rejects.toMatchObject({ status: 404 })
  })

  test('projects tell their configuration, and are not removed while used', async () => {
    const found = await projects.find(project.lxd, project.name)
    expect(found).toMatchObject({ config: { 'features.images': 'false' }, etag: expect.stringMatching(/./) })
    expect((await projects.list(project.lxd)).map(({ name }) => name)).toContain(project.name)
    await createInstance(project.lxd, { name: 'user', source: { type: 'none' } })
    await expect(projects.remove(project.lxd, project.name)).rejects.toMatchObject({ fault: 'refused' })
  })

  test('a bridge and its access list are made, changed, used and removed', async () => {
    const { lxd } = project
    const name = `t${project.name.replace(/\D/g, '').slice(-8)}${way.kind[0]}${way.over[0]}`
    const allow = { action: 'allow', state: 'enabled' } as const
    await networkAcls.create(lxd, { name, egress: [allow], ingress: [] })
    const acl = await networkAcls.find(lxd, name)
    expect(acl).toMatchObject({ name, egress: [expect.objectContaining(allow)], ingress: [], used_by: [] })
    const reject = {
      action: 'reject',
      state: 'enabled',
      destination: '10.77.0.0/16',
      protocol: 'tcp',
      destination_port: '1-2221,2223-65535'
    } as const
    await networkAcls.update(lxd, name, { egress: [reject, allow], ingress: [allow] }, acl?.etag)
    expect((await networkAcls.find(lxd, name))?.egress).toContainEqual(expect.objectContaining(reject))

    const config = { 'ipv4.address': '10.78.0.1/24', 'ipv4.nat': 'false', 'ipv6.address': 'none', 'dns.mode': 'none' }
    await networks.create(lxd, { name, type: 'bridge', config })
    const network = await networks.find(lxd, name)
    expect(network).toMatchObject({ name, type: 'bridge', managed: true, config: expect.objectContaining(config) })
    expect(await listLeases(lxd, name)).toEqual([])
    await networks.update(lxd, name, { config: { ...network?.config, 'security.acls': name } }, network?.etag)
    expect((await networks.list(lxd)).find(other => other.name === name)?.config['security.acls']).toBe(name)
    await expect(networkAcls.remove(lxd, name)).rejects.toMatchObject({ fault: 'refused' })

    await networks.remove(lxd, name)
    await networkAcls.remove(lxd, name)
    expect([await networks.find(lxd, name), await networkAcls.find(lxd, name)]).toEqual([undefined, undefined])
  })

  test('pools tell their driver and how full they are', async () => {
    const pool = await findPool(project.lxd, project.server.pool)
    expect(pool).toMatchObject({ name: project.server.pool, driver: 'btrfs' })
    expect((await listPools(project.lxd)).map(({ name }) => name)).toEqual([project.server.pool])
    expect(await findPool(project.lxd, 'none')).toBeUndefined()
    const usage = await getPoolUsage(project.lxd, project.server.pool)
    expect(usage.usedBytes).toBeGreaterThan(0)
    expect(usage.totalBytes).toBeGreaterThan(usage.usedBytes)
  })

  test('the machine tells its processors, memory and GPUs', async () => {
    const resources = await getResources(project.lxd)
    expect(resources).toMatchObject({ cpus: expect.any(Number), gpus: expect.any(Array) })
    expect(resources.cpus).toBeGreaterThan(0)
    expect(resources.memoryBytes).toBeGreaterThan(2 ** 28)
  })

  test('an image is imported from two files, named, renamed to another and deleted', async () => {
    await using image = await makeImage()
    const fingerprint = await importImage(project.lxd, image)
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/)
    await expect(importImage(project.lxd, image)).rejects.toMatchObject({ fault: 'failed' })
    const alias = `a${fingerprint.slice(0, 8)}`
    expect(await findImage(project.lxd, alias)).toBeUndefined()
    await setImageAlias(project.lxd, alias, fingerprint)
    expect(await findImage(project.lxd, alias)).toMatchObject({ fingerprint, properties: { os: 'nothing' } })
    await using other = await makeImage()
    const next = await importImage(project.lxd, other)
    await setImageAlias(project.lxd, alias, next)
    expect(await findImage(project.lxd, alias)).toMatchObject({ fingerprint: next })
    const known = (await listImages(project.lxd)).map(listed => listed.fingerprint)
    expect(known).toEqual(expect.arrayContaining([fingerprint, next]))
    await Promise.all([deleteImage(project.lxd, fingerprint), deleteImage(project.lxd, next)])
    expect(await findImage(project.lxd, alias)).toBeUndefined()
    expect(await findImage(project.lxd, IMAGE)).toMatchObject({ architecture: 'x86_64' })
  })

  test('events of the project arrive until we leave', async () => {
    const events: LxdEvent[] = []
    const leaving = new AbortController()
    const following = later(followEvents(project.lxd, 'lifecycle', event => events.push(event), leaving.signal))
    await expect
      .poll(async () => {
        await profiles.create(project.lxd, { name: 'seen', config: {}, devices: {} })
        await profiles.remove(project.lxd, 'seen')
        return events.map(event => (event.metadata as { action?: string }).action)
      })
      .toContain('profile-created')
    leaving.abort()
    await following
    const count = events.length
    await profiles.create(project.lxd, { name: 'unseen', config: {}, devices: {} })
    expect(events).toHaveLength(count)
    await profiles.remove(project.lxd, 'unseen')
  })
})

/** An image of next to nothing that nobody else has. */
async function makeImage() {
  const directory = await mkdtemp(join(tmpdir(), 'berth-image-'))
  await mkdir(join(directory, 'rootfs'))
  await writeFile(join(directory, 'rootfs/unique'), randomBytes(16).toString('hex'))
  const metadata = { architecture: 'x86_64', creation_date: 1, properties: { os: 'nothing' } }
  await writeFile(join(directory, 'metadata.yaml'), JSON.stringify(metadata))
  const [metadataPath, rootfsPath] = [join(directory, 'metadata.tar'), join(directory, 'rootfs.tar')]
  await promisify(execFile)('tar', ['-cf', metadataPath, '-C', directory, 'metadata.yaml'])
  await promisify(execFile)('tar', ['-cf', rootfsPath, '-C', join(directory, 'rootfs'), '.'])
  return {
    metadataPath,
    rootfsPath,
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true })
  }
}
