import { expect, test } from 'vitest'
import { apiPath } from '../../src/lxd/api-path.ts'
import { readProgress } from '../../src/lxd/operation.ts'

test('a value is one path segment, whatever it holds', () => {
  expect(apiPath`/1.0/instances/${'alice'}/state`).toBe('/1.0/instances/alice/state')
  expect(apiPath`/1.0/instances/${'a/../b?project=x#y %'}`).toBe('/1.0/instances/a%2F..%2Fb%3Fproject%3Dx%23y%20%25')
})

test.each(['', '.', '..'])('%j is no name', value => {
  expect(() => apiPath`/1.0/instances/${value}/state`).toThrow(TypeError)
})

test.each([
  [{}, undefined],
  [{ fs: 'x', download_progress: '' }, undefined],
  [{ download_progress: 'rootfs: 45% (12.30MB/s)' }, ['download', 0.45]],
  [{ create_instance_from_image_unpack_progress: 'Unpack: 100% (3.2GB/s)' }, ['create instance from image unpack', 1]],
  [{ create_backup_progress: '12.30MB (4.10MB/s)' }, ['create backup 12.30MB (4.10MB/s)']]
])('progress in %j', (metadata, progress) => {
  expect(readProgress(metadata)).toEqual(progress)
})
