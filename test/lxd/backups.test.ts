import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { streamBackup, type NewBackup } from '../../src/lxd/backups.ts'
import { createInstance } from '../../src/lxd/instances.ts'
import { IMAGE, MAIN_WAYS, openProject, type TestProject } from './servers.ts'

/** RFC 8878 */
const ZSTD_MAGIC = '28b52ffd'

describe.each(MAIN_WAYS)('$kind over $over', way => {
  let project: TestProject
  beforeAll(async () => {
    project = await openProject(way)
    await createInstance(project.lxd, { name: 'box', source: { type: 'image', alias: IMAGE } })
  })
  afterAll(() => project[Symbol.asyncDispose]())

  let backups = 0
  /** The first bytes of a backup, in hexadecimal digits. */
  async function begin(...compression: NewBackup['compression']): Promise<string> {
    const name = `backup-${(backups += 1)}`
    const backup = streamBackup(project.lxd, 'box', { name, compression, expiresAtMs: Date.now() + 3600_000 })
    let bytes = Buffer.alloc(0)
    for await (const chunk of backup) bytes = Buffer.concat([bytes, chunk.subarray(0, 4 - bytes.length)])
    return bytes.toString('hex')
  }

  test('a backup is packed with the first program that the server takes', async () => {
    expect(await begin('no-such-program', 'zstd -2', 'gzip')).toBe(ZSTD_MAGIC)
  })

  test('a backup that no program can pack is refused', async () => {
    await expect(begin('no-such-program')).rejects.toMatchObject({ fault: 'refused', status: 400 })
  })
})
