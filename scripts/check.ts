// `npm run check`: everything that can be said about the code without running it.
import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
// A tool's own file and not its link in .bin, so that the Node running this runs it too.
const tool = (file: string) => join(root, 'node_modules', file)

const steps: readonly [name: string, args: readonly string[]][] = [
  ['types', [tool('typescript/bin/tsc'), '--noEmit']],
  ['format', [tool('prettier/bin/prettier.cjs'), '--check', '--log-level=warn', '.']],
  ['lint', [tool('oxlint/bin/oxlint'), '--type-aware', '--deny-warnings']],
  ['directions', [join(root, 'scripts/directions.ts')]],
  ['dead code', [tool('knip/bin/knip.js')]]
]

let failed = 0
const waiting = [...steps]
await Promise.all(Array.from({ length: availableParallelism() }, work))
console.log(failed === 0 ? 'check: all good' : `check: ${failed} of ${steps.length} failed`)
process.exitCode = failed === 0 ? 0 : 1

async function work(): Promise<void> {
  for (let step = waiting.shift(); step; step = waiting.shift()) {
    const [name, args] = step
    const startedAtMs = performance.now()
    const { ok, output } = await run(args)
    const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(1)
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)`)
    if (ok) continue
    failed += 1
    console.log(output.trimEnd())
  }
}

function run(args: readonly string[]): Promise<{ ok: boolean; output: string }> {
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject).once('close', code => resolve({ ok: code === 0, output }))
  })
}
