import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { refuseWithoutCgroup1 } from '../../src/containers/create.ts'

describe('an image of Ubuntu 16.04', () => {
  const cgroup2 = /^\S+ (\S+) cgroup2 /m.exec(readFileSync('/proc/mounts', 'utf8'))?.[1] as string
  const local = { name: 'gpu1', lxd: 'unix:///var/lib/lxd/unix.socket' }
  const old = { properties: { os: 'ubuntu', release: 'xenial', version: '16.04' } }

  it('is refused where there is cgroup v2 alone', async () => {
    const unfit = { reason: 'image-unfit', message: 'Ubuntu 16.04 needs cgroup v1, and gpu1 has cgroup v2 alone.' }
    await expect(refuseWithoutCgroup1(local, old, cgroup2)).rejects.toMatchObject(unfit)
    const named = { properties: { os: 'Ubuntu', release: '16.04' } }
    await expect(refuseWithoutCgroup1(local, named, cgroup2)).rejects.toMatchObject(unfit)
  })

  it('is taken where cgroup v1 is, and where nobody can tell; others are taken everywhere', async () => {
    const later = { properties: { os: 'ubuntu', release: 'bionic', version: '18.04' } }
    const remote = { ...local, lxd: 'https://gpu1:8443' }
    const taken = [
      refuseWithoutCgroup1(local, old, '/proc'),
      refuseWithoutCgroup1(remote, old, cgroup2),
      refuseWithoutCgroup1(local, later, cgroup2),
      refuseWithoutCgroup1(local, { properties: {} }, cgroup2)
    ]
    expect(await Promise.all(taken)).toEqual([undefined, undefined, undefined, undefined])
  })
})
