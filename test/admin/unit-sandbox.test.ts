import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { checkSnapshotDirectory } from '../../src/admin/checks/snapshots.ts'
import { renderUnit } from '../../src/admin/render-config.ts'
import { parseConfig } from '../../src/config.ts'

const directory = mkdtempSync(join(tmpdir(), 'berth-unit-'))
afterAll(() => rmSync(directory, { recursive: true }))

const configWith = (snapshots: string) =>
  parseConfig(
    `
stateDir: ${directory}/state
nodes: { gpu1: { address: 10.0.0.1, managePort: 2222, lxd: unix:///nowhere } }
templates: [{ name: debian-12, image: debian-12 }]
${snapshots}`,
    join(directory, 'berth.yaml')
  )

it('removes what a look at the NAS that was killed has left', () => {
  mkdirSync(join(directory, '.berth-probe-killed'))
  checkSnapshotDirectory(configWith(`snapshots: { dir: ${directory} }`), join(directory, 'none.service'))
  expect(readdirSync(directory)).not.toContain('.berth-probe-killed')
})

it('finds a unit that was written before snapshots.dir was set, and names the line that renews it', () => {
  const config = configWith(`snapshots: { dir: ${directory} }`)
  const unitPath = join(directory, 'berth.service')
  const faults = () => checkSnapshotDirectory(config, unitPath).filter(({ level }) => level === 'fault')
  expect(faults()).toEqual([])

  writeFileSync(unitPath, renderUnit(configWith('')))
  expect(faults()).toMatchObject([
    { check: 'snapshots', mend: expect.stringContaining(`rm ${unitPath} && berth init`) }
  ])

  writeFileSync(unitPath, renderUnit(config))
  expect(faults()).toEqual([])
})
