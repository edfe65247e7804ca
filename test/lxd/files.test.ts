import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { execCaptured } from '../../src/lxd/exec.ts'
import { deleteFile, listDirectory, pullFile, pushFile, statFile } from '../../src/lxd/files.ts'
import { createInstance, setInstanceState } from '../../src/lxd/instances.ts'
import { IMAGE, openProject, WAYS, type TestProject } from './servers.ts'

describe.each(WAYS)('$kind over $over', way => {
  let project: TestProject
  beforeAll(async () => {
    project = await openProject(way)
    await createInstance(project.lxd, { name: 'box', source: { type: 'image', alias: IMAGE } })
  })
  afterAll(() => project[Symbol.asyncDispose]())

  const roundTrip = async (path: string) => {
    const bytes = Buffer.from([0, 1, 2, 255, 10, 13, 0])
    await pushFile(project.lxd, 'box', path, bytes, { uid: 1000, gid: 1001, mode: 0o640 })
    expect(await statFile(project.lxd, 'box', path)).toEqual({ type: 'file', uid: 1000, gid: 1001, mode: 0o640 })
    expect(await pullFile(project.lxd, 'box', path)).toMatchObject({ content: bytes, uid: 1000 })
    await pushFile(project.lxd, 'box', path, 'shorter')
    expect((await pullFile(project.lxd, 'box', path))?.content.toString()).toBe('shorter')
    expect(await deleteFile(project.lxd, 'box', path)).toBe(true)
    expect(await deleteFile(project.lxd, 'box', path)).toBe(false)
    expect(await statFile(project.lxd, 'box', path)).toBeUndefined()
    expect(await pullFile(project.lxd, 'box', path)).toBeUndefined()
  }

  describe('of a stopped container', () => {
    test('bytes, owner and mode survive', () => roundTrip('/root/file'))

    test('a path may hold anything', () => roundTrip('/root/a b&path=c?d#é%2e'))

    test('directories are made, listed and removed when empty', async () => {
      await pushFile(project.lxd, 'box', '/root/dir', '', { type: 'directory', mode: 0o700 })
      await pushFile(project.lxd, 'box', '/root/dir/inside', 'x')
      expect(await statFile(project.lxd, 'box', '/root/dir')).toMatchObject({ type: 'directory', mode: 0o700 })
      expect(await listDirectory(project.lxd, 'box', '/root/dir')).toEqual(['inside'])
      expect(await listDirectory(project.lxd, 'box', '/root/dir/inside')).toBeUndefined()
      expect(await listDirectory(project.lxd, 'box', '/root/none')).toBeUndefined()
      await expect(deleteFile(project.lxd, 'box', '/root/dir')).rejects.toMatchObject({ fault: 'refused' })
      await deleteFile(project.lxd, 'box', '/root/dir/inside')
      expect(await deleteFile(project.lxd, 'box', '/root/dir')).toBe(true)
    })

    test('a missing parent is refused', async () => {
      const orphan = pushFile(project.lxd, 'box', '/root/none/file', 'x')
      await expect(orphan).rejects.toMatchObject({ fault: 'refused', status: 404 })
    })

    test('a symlink is not followed when looked at or removed, and never leads out of the container', async () => {
      await pushFile(project.lxd, 'box', '/root/link', project.server.lxdDir, { type: 'symlink' })
      expect(await statFile(project.lxd, 'box', '/root/link')).toMatchObject({ type: 'symlink' })
      expect((await pullFile(project.lxd, 'box', '/root/link'))?.content.toString()).toBe(project.server.lxdDir)
      const outside = pushFile(project.lxd, 'box', '/root/link/escaped', 'x')
      await expect(outside).rejects.toMatchObject({ fault: 'refused', status: 404 })
      expect(await deleteFile(project.lxd, 'box', '/root/link')).toBe(true)
    })

    test('more than the caller allows is not read', async () => {
      await pushFile(project.lxd, 'box', '/root/large', Buffer.alloc(100_000))
      const read = pullFile(project.lxd, 'box', '/root/large', { maxBytes: 99_999 })
      await expect(read).rejects.toMatchObject({ fault: 'too-much' })
      expect((await pullFile(project.lxd, 'box', '/root/large', { maxBytes: 100_000 }))?.content).toHaveLength(100_000)
    })
  })

  describe('of a running container', () => {
    beforeAll(() => setInstanceState(project.lxd, 'box', 'start'))

    test('bytes, owner and mode survive', () => roundTrip('/root/file'))

    test('the container sees what was pushed', async () => {
      await pushFile(project.lxd, 'box', '/root/seen', 'hello', { uid: 0, gid: 0, mode: 0o600 })
      const seen = await execCaptured(project.lxd, 'box', { command: ['stat', '-c', '%u:%g %a %s', '/root/seen'] })
      expect(seen.stdout).toBe('0:0 600 5\n')
    })

    test('a read of a fifo ends at our time limit', async () => {
      await execCaptured(project.lxd, 'box', { command: ['mkfifo', '/root/fifo'] })
      const read = pullFile(project.lxd, 'box', '/root/fifo', { timeoutMs: 500 })
      await expect(read).rejects.toMatchObject({ fault: 'timed-out' })
      // The server's own read goes on, and would keep the container from stopping.
      await execCaptured(project.lxd, 'box', { command: ['sh', '-c', 'echo > /root/fifo'], timeoutMs: 10_000 })
    })
  })
})
