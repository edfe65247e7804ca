import { describe, expect, it } from 'vitest'
import { findConfigPath, parseConfig } from '../src/config.ts'
import { UserError } from '../src/errors.ts'

const minimal = `
nodes:
  gpu1: { address: 10.0.0.11, managePort: 2222, lxd: "unix:///var/lib/lxd/unix.socket" }
templates: [ { name: debian-12, image: debian-12 } ]
`

function faultsOf(text: string): string {
  try {
    parseConfig(text, '/etc/berth/berth.yaml')
  } catch (error) {
    expect(error).toBeInstanceOf(UserError)
    expect((error as UserError).reason).toBe('bad-config')
    expect((error as UserError).exitCode).toBe(65)
    return (error as UserError).details ?? ''
  }
  throw new Error('accepted')
}

describe('berth.yaml', () => {
  it('fills in every default', () => {
    const config = parseConfig(minimal, '/etc/berth/berth.yaml')
    expect(config).toMatchObject({
      stateDir: '/var/lib/berth',
      ports: { from: 22000, to: 22999, exclude: [] },
      forwardPorts: { from: 11000, to: 11999 },
      ssh: { listen: '0.0.0.0' },
      web: { listen: '127.0.0.1:8080' },
      snapshots: { compression: 'zstd', keepPerUser: 5, maxBytesPerUser: 500 * 2 ** 30 }
    })
    expect(config.nodes.get('gpu1')).toMatchObject({
      name: 'gpu1',
      listenAddress: '10.0.0.11',
      manageAddress: '10.0.0.11',
      project: 'berth',
      storagePool: 'default',
      network: 'berthbr0',
      forwarding: 'auto',
      gpus: 'auto',
      idmap: 'isolated',
      nesting: false,
      limits: { cpu: 'unlimited', memory: 32 * 2 ** 30, processes: 4000, disk: 200 * 2 ** 30 }
    })
  })

  it('reads sizes with the units of LXD', () => {
    const config = parseConfig(
      minimal.replace('managePort: 2222', 'managePort: 2222, limits: { memory: 1.5GiB, disk: 20GB, cpu: 8 }'),
      'x'
    )
    expect(config.nodes.get('gpu1')?.limits).toEqual({ cpu: 8, memory: 1.5 * 2 ** 30, disk: 20e9, processes: 4000 })
  })

  it('reports all faults at once, each with its path', () => {
    const faults = faultsOf(`
stateDir: relative/path
colour: blue
nodes:
  gpu1: { address: 10.0.0.11, managePort: 99999, lxd: "http://x", deny: [10.0.0.0/33], limits: { memory: lots } }
templates: []
`)
    for (const path of [
      'stateDir',
      'colour',
      'nodes.gpu1.managePort',
      'nodes.gpu1.lxd',
      'nodes.gpu1.deny.0',
      'nodes.gpu1.limits.memory',
      'templates'
    ]) {
      expect(faults).toContain(path)
    }
  })

  it.each([
    [
      'a snapshot directory inside a mount',
      'managePort: 2222, mounts: [{source: /nas, path: /newNAS}]',
      'snapshots: { dir: /nas/berth }',
      'snapshots.dir'
    ],
    [
      'a snapshot directory above a mount',
      'managePort: 2222, mounts: [{source: /nas/shared, path: /newNAS}]',
      'snapshots: { dir: /nas }',
      'snapshots.dir'
    ],
    ['nat without a concrete address', 'managePort: 2222, forwarding: nat, listenAddress: 0.0.0.0', '', 'forwarding'],
    ['a manage port among the fixed ports', 'managePort: 22005', '', 'managePort'],
    ['overlapping port ranges', 'managePort: 2222', 'forwardPorts: { from: 22500, to: 23000 }', 'forwardPorts'],
    ['a mount path with ..', 'managePort: 2222, mounts: [{source: /a/../etc, path: /x}]', '', 'mounts.0.source'],
    ['two nodes on one manage port', 'managePort: 2222', 'NODE2', 'managePort 2222']
  ])('refuses %s', (_, replacement, extra, expected) => {
    const second = '  gpu2: { address: 10.0.0.12, managePort: 2222, lxd: "unix:///x" }\n'
    const text = minimal.replace('managePort: 2222', replacement)
    expect(faultsOf(extra === 'NODE2' ? text.replace('templates:', `${second}templates:`) : text + extra)).toContain(
      expected
    )
  })

  it('accepts a snapshot directory beside the mounts', () => {
    const text = minimal.replace('managePort: 2222', 'managePort: 2222, mounts: [{source: /nas/shared, path: /newNAS}]')
    expect(parseConfig(`${text}snapshots: { dir: /nas/berth }`, 'x').snapshots.dir).toBe('/nas/berth')
  })

  it('says where a YAML error is', () => {
    expect(faultsOf('nodes: [\n')).toMatch(/line \d/)
  })

  it('is found by option, then environment, then in /etc', () => {
    expect(findConfigPath('/a.yaml', { BERTH_CONFIG: '/b.yaml' })).toBe('/a.yaml')
    expect(findConfigPath(undefined, { BERTH_CONFIG: '/b.yaml' })).toBe('/b.yaml')
    expect(findConfigPath(undefined, {})).toBe('/etc/berth/berth.yaml')
  })
})
