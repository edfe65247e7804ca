import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { checkMounts } from '../../src/admin/checks/mounts.ts'
import { parseConfig } from '../../src/config.ts'

const directory = mkdtempSync(join(tmpdir(), 'berth-mounts-'))
afterAll(() => rmSync(directory, { recursive: true }))
const nas = join(directory, 'nas share')
mkdirSync(join(nas, 'deep'), { recursive: true })

const line = (target: string, type: string, source: string) =>
  `36 35 98:0 / ${target.replaceAll(' ', '\\040')} rw,noatime master:1 - ${type} ${source} rw`

async function look(source: string, mountinfo: string[], deny: string[] = []): Promise<string[]> {
  const text = `nodes: { gpu1: { address: 10.0.0.1, managePort: 2222, lxd: unix:///x, deny: ${JSON.stringify(deny)}, mounts: [{ source: ${JSON.stringify(source)}, path: /m }] } }
templates: [{ name: a, image: a }]`
  const node = parseConfig(text, '/etc/berth/berth.yaml').nodes.get('gpu1')
  if (node === undefined) throw new Error('no node')
  const root = line('/', 'ext4', '/dev/vda1')
  const found = await checkMounts('/etc/berth/berth.yaml', node, [root, ...mountinfo, ''].join('\n'))
  return found.filter(({ level }) => level !== 'ok').map(({ text, mend }) => `${text} | ${mend}`)
}

describe('file servers of mounts', () => {
  it('are no matter for a local disk', async () => {
    expect(await look(nas, [])).toEqual([])
    expect(await look(nas, [line('/elsewhere', 'nfs4', '192.0.2.9:/export')])).toEqual([])
  })

  it.each([
    ['nfs4', '192.0.2.9:/export'],
    ['nfs', '192.0.2.9:/'],
    ['cifs', '//192.0.2.9/share'],
    ['ceph', '192.0.2.9:6789,192.0.2.9:6790:/'],
    ['fuse.sshfs', 'root@192.0.2.9:/export']
  ])('must be denied to containers: %s from %s', async (type, source) => {
    const [fault, ...more] = await look(nas, [line(nas, type, source)], ['10.9.0.0/16'])
    expect(more).toEqual([])
    expect(fault).toContain('192.0.2.9')
    expect(fault).toContain('deny: [10.9.0.0/16, 192.0.2.9/32]')
    expect(await look(nas, [line(nas, type, source)], ['192.0.2.0/24'])).toEqual([])
  })

  it('are found above and below the source too, the nearest one above', async () => {
    expect(await look(join(nas, 'deep'), [line(nas, 'nfs4', '192.0.2.9:/export')])).toHaveLength(1)
    expect(await look(nas, [line(join(nas, 'deep'), 'nfs4', '192.0.2.9:/export')])).toHaveLength(1)
    const local = line(join(nas, 'deep'), 'ext4', '/dev/vdb1')
    expect(await look(join(nas, 'deep'), [line(nas, 'nfs4', '192.0.2.9:/export'), local])).toEqual([])
  })

  it('cannot be told for a source that is not there, which is a fault of its own', async () => {
    expect(await look('/no/such/source', [])).toEqual([expect.stringContaining('mkdir -p /no/such/source')])
  })
})
