import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pushFile } from '../../src/lxd/files.ts'
import {
  createInstance,
  deleteInstance,
  findInstance,
  getInstance,
  getInstanceState,
  listInstances,
  patchInstance,
  renameInstance,
  setInstanceState,
  STATUS,
  updateInstance
} from '../../src/lxd/instances.ts'
import { IMAGE, openProject, WAYS, type TestProject } from './servers.ts'

describe.each(WAYS)('$kind over $over', way => {
  let project: TestProject
  beforeAll(async () => {
    project = await openProject(way)
  })
  afterAll(() => project[Symbol.asyncDispose]())

  test('a container is made from an image, stopped, as it was asked for', async () => {
    await createInstance(project.lxd, {
      name: 'one',
      description: 'made by a test',
      source: { type: 'image', alias: IMAGE },
      config: { 'user.berth': 'yes', 'limits.processes': '500' },
      devices: { extra: { type: 'none' } }
    })
    expect(await getInstance(project.lxd, 'one')).toMatchObject({
      name: 'one',
      description: 'made by a test',
      status_code: STATUS.stopped,
      type: 'container',
      project: project.name,
      profiles: ['default'],
      config: expect.objectContaining({ 'user.berth': 'yes' }),
      devices: { extra: { type: 'none' } },
      expanded_devices: { extra: { type: 'none' }, root: expect.objectContaining({ path: '/' }) },
      etag: expect.stringMatching(/./)
    })
    expect((await listInstances(project.lxd)).map(({ name }) => name)).toEqual(['one'])
  })

  test('a taken name is refused', async () => {
    const again = createInstance(project.lxd, { name: 'one', source: { type: 'none' } })
    await expect(again).rejects.toMatchObject({ fault: 'failed', status: 400 })
  })

  test('patch keeps what it does not name, update drops it', async () => {
    await patchInstance(project.lxd, 'one', { config: { 'user.more': '1' } })
    const patched = await getInstance(project.lxd, 'one')
    expect(patched.config).toMatchObject({ 'user.berth': 'yes', 'user.more': '1' })
    const { 'user.berth': dropped, ...config } = patched.config
    expect(dropped).toBe('yes')
    await updateInstance(project.lxd, 'one', { ...patched, config, devices: {} }, patched.etag)
    const updated = await getInstance(project.lxd, 'one')
    expect(updated.config).not.toHaveProperty('user.berth')
    expect(updated.devices).toEqual({})
    const late = updateInstance(project.lxd, 'one', { ...patched, config }, patched.etag)
    await expect(late).rejects.toMatchObject({ fault: 'refused', status: 412 })
  })

  test('a stopped container is renamed, unless the name is taken', async () => {
    await createInstance(project.lxd, { name: 'two', source: { type: 'none' } })
    await expect(renameInstance(project.lxd, 'one', 'two')).rejects.toMatchObject({ name: 'LxdError' })
    await deleteInstance(project.lxd, 'two')
    await renameInstance(project.lxd, 'one', 'two')
    expect(await findInstance(project.lxd, 'one')).toBeUndefined()
    expect(await getInstance(project.lxd, 'two')).toMatchObject({ config: { 'user.more': '1' } })
  })

  test('a started container tells its state, and a second start fails', async () => {
    expect(await getInstanceState(project.lxd, 'two')).toMatchObject({ status_code: STATUS.stopped, network: {} })
    const target = '/etc/systemd/system/halt.target'
    await pushFile(project.lxd, 'two', target, '/dev/null', { type: 'symlink' })
    await setInstanceState(project.lxd, 'two', 'start')
    const state = await getInstanceState(project.lxd, 'two')
    expect(state).toMatchObject({ status_code: STATUS.running, network: { lo: { type: 'loopback' } } })
    expect(state.pid).toBeGreaterThan(0)
    expect(state.memory?.usage).toBeGreaterThan(0)
    expect(state.cpu?.usage).toBeGreaterThan(0)
    expect(Date.parse((await getInstance(project.lxd, 'two')).last_used_at)).toBeGreaterThan(Date.now() - 600_000)
    await expect(setInstanceState(project.lxd, 'two', 'start')).rejects.toMatchObject({ fault: 'failed' })
  })

  test('a running container is neither renamed nor deleted', async () => {
    await expect(renameInstance(project.lxd, 'two', 'three')).rejects.toMatchObject({ name: 'LxdError' })
    await expect(deleteInstance(project.lxd, 'two')).rejects.toMatchObject({ name: 'LxdError' })
    expect(await findInstance(project.lxd, 'two')).toMatchObject({ status_code: STATUS.running })
  })

  test('a container that will not shut down fails to stop in the time given, and is stopped by force', async () => {
    await setInstanceState(project.lxd, 'two', 'freeze')
    expect(await getInstanceState(project.lxd, 'two')).toMatchObject({ status_code: STATUS.frozen })
    await setInstanceState(project.lxd, 'two', 'unfreeze')
    await expect(setInstanceState(project.lxd, 'two', 'stop', { graceMs: 1 })).rejects.toMatchObject({
      fault: 'failed'
    })
    expect(await findInstance(project.lxd, 'two')).toMatchObject({ status_code: STATUS.running })
    await setInstanceState(project.lxd, 'two', 'stop', { force: true })
    expect(await findInstance(project.lxd, 'two')).toMatchObject({ status_code: STATUS.stopped })
  })

  test('the state of a container can be read at any moment of its end', async () => {
    for (let round = 0; round < 3; round++) {
      await setInstanceState(project.lxd, 'two', 'start')
      const readUntilStopped = async () => {
        for (;;) if ((await getInstanceState(project.lxd, 'two')).status_code === STATUS.stopped) return
      }
      await Promise.all([readUntilStopped(), setInstanceState(project.lxd, 'two', 'stop', { force: true })])
      expect(await getInstanceState(project.lxd, 'two')).toMatchObject({ status_code: STATUS.stopped })
    }
  })

  test('a deleted container is gone, a second deletion is 404', async () => {
    await deleteInstance(project.lxd, 'two')
    expect(await listInstances(project.lxd)).toEqual([])
    await expect(deleteInstance(project.lxd, 'two')).rejects.toMatchObject({ fault: 'refused', status: 404 })
  })
})
