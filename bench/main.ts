import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { downLab } from '../test/lab/lab.ts'
import { installPackages } from '../test/lab/packages.ts'
import { startRig } from '../test/rig.ts'
import type { Bench, Figures } from './bench.ts'
import { crowd } from './crowd.ts'
import { idleMemory } from './idle-memory.ts'
import { downtime, recover, removeSnapshotDirectory, snapshot, SNAPSHOT_DIRECTORY, streamMemory } from './snapshot.ts'
import { start } from './start.ts'
import { status } from './status.ts'
import { throughput } from './throughput.ts'

const benches: readonly Bench[] = [
  status,
  crowd,
  idleMemory,
  start,
  throughput,
  snapshot,
  downtime,
  recover,
  streamMemory
]

const { positionals, values } = parseArgs({ allowPositionals: true, options: { json: { type: 'string' } } })
const unknown = positionals.filter(name => !benches.some(bench => bench.name === name))
if (unknown.length > 0) {
  console.error(`usage: npm run bench -- [${benches.map(bench => bench.name).join(' | ')}]… [--json FILE]`)
  process.exit(64)
}

const say = (line: string) => console.error(`bench: ${line}`)
const lab = 'bench'
process.env['BERTH_TEST_LAB'] = lab
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void downLab(lab).finally(() => process.exit(130)))
}
const results: { bench: Bench; figures: Figures; ratio: number; holds: boolean }[] = []
try {
  await installPackages(say, ['openssh-server'])
  const limits = { cpu: 'unlimited', memory: '1GiB', processes: 1000, disk: '8GiB' }
  await using rig = await startRig({ node: { limits }, config: { snapshots: { dir: SNAPSHOT_DIRECTORY } } })
  for (const bench of benches.filter(({ name }) => positionals.length === 0 || positionals.includes(name))) {
    say(`${bench.name}: ${bench.claim}…`)
    const figures = await bench.measure(rig, say)
    const ratio = figures.berth / figures.peer
    const holds = 'atMost' in bench.limit ? ratio <= bench.limit.atMost : ratio >= bench.limit.atLeast
    results.push({ bench, figures, ratio, holds })
  }
} finally {
  await downLab(lab)
  removeSnapshotDirectory()
}

const table = new Table({
  head: ['bench', 'berth', 'peer', 'unit', 'ratio', 'must be', ''],
  style: { head: [], border: [] }
})
for (const { bench, figures, ratio, holds } of results) {
  const limit = 'atMost' in bench.limit ? `≤ ${bench.limit.atMost}` : `≥ ${bench.limit.atLeast}`
  const cells = [figures.berth.toFixed(1), figures.peer.toFixed(1), bench.unit, ratio.toFixed(3), limit]
  table.push([bench.name, ...cells, holds ? 'holds' : 'MISSED'])
}
console.log(table.toString())
if (values.json !== undefined) {
  const rows = results.map(({ bench: { name, claim, unit, limit }, figures, ratio, holds }) => {
    return { name, claim, unit, ...figures, ratio, ...limit, holds }
  })
  writeFileSync(values.json, `${JSON.stringify(rows, undefined, 2)}\n`)
}
process.exitCode = results.every(({ holds }) => holds) ? 0 : 1
