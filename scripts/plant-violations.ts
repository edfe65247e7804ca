// `npm run check:planted`: plants one violation of each rule in a temporary copy and expects every one to be found there,
// and nothing else: a rule that no longer bites would otherwise go unnoticed.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

const root = join(import.meta.dirname, '..')

/** File to plant, its text, and what must be said about it. */
type Planted = readonly [file: string, text: string, fault: string]

const directions: readonly Planted[] = [
  ['src/lxd/planted.ts', "import '../containers/containers.ts'", 'lxd may not import containers'],
  ['src/db/planted.ts', "import '../directory/users.ts'", 'db may not import directory'],
  ['src/containers/planted.ts', "import '../ssh/server.ts'", 'containers may not import ssh'],
  ['src/directory/planted.ts', "import '../../forced-commands/stop.ts'", 'directory may not import forced-commands'],
  ['src/operations/planted.ts', "export * from '../admin/serve.ts'", 'operations may not import admin'],
  ['src/command/planted.ts', "await import('../web/server.ts')", 'command may not import web'],
  ['src/ssh/planted.ts', "import type { Page } from '../web/server.ts'", 'ssh may not import web'],
  ['src/web/planted.ts', "import '../ssh/server.ts'", 'web may not import ssh'],
  ['forced-commands/planted.ts', "import '../src/app.ts'", 'forced-commands may not import app'],
  ['src/snapshots/planted.ts', "import { loadConfig } from '../config.ts'", 'snapshots may not import config'],
  ['src/admin/planted.ts', "import '../main.ts'", 'admin may not import main'],
  ['src/admin/planted-lab.ts', "import '../../test/rig.ts'", 'outside of what runs'],
  ['src/utilities/planted.ts', "import '../log.ts'", 'belongs to no part'],
  ['src/lxd/planted-ssh2.ts', "import ssh2 from 'ssh2'", 'only src/ssh imports ssh2'],
  ['src/ssh/planted-path.ts', 'await import(`../${name}`)', 'cannot be read here'],
  ['src/log.ts', "import type { Config } from './config.ts'", 'log may not import config'],
  ['src/ssh/planted-env.ts', 'export const home = process.env.HOME', 'only config.ts reads the environment'],
  ['src/lxd/planted-env.ts', "export const home = process['env']", 'only config.ts reads the environment'],
  ['src/db/planted-env.ts', "import { env } from 'node:process'", 'only config.ts reads the environment']
]

const lint: readonly Planted[] = [
  ['src/ssh/floating.ts', 'async function work() {}\nexport function start() {\n  work()\n}', 'no-floating-promises'],
  [
    'src/ssh/misused.ts',
    'export const start = (work: () => Promise<void>) => [1].forEach(work)',
    'no-misused-promises'
  ],
  ['src/ssh/types.ts', "import { Log } from '../log.ts'\nexport type Mine = Log", 'consistent-type-imports'],
  ['src/ssh/printed.ts', "console.log('here')", 'no-console']
]

const copy = mkdtempSync(join(tmpdir(), 'berth-planted-'))
let missing = 0
try {
  for (const name of ['src', 'forced-commands', 'scripts', 'tsconfig.json', 'package.json', '.oxlintrc.json']) {
    cpSync(join(root, name), join(copy, name), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const oxlint = [join(root, 'node_modules/oxlint/bin/oxlint'), '--type-aware', '--format=unix', 'src']
  prove('directions', directions, [join(root, 'scripts/directions.ts'), copy])
  prove('lint', lint, oxlint)
} finally {
  rmSync(copy, { recursive: true })
}
console.log(missing === 0 ? 'planted violations: all found' : `planted violations: ${missing} not found`)
process.exitCode = missing === 0 ? 0 : 1

function prove(name: string, planted: readonly Planted[], command: readonly string[]): void {
  const before = run(command)
  for (const [file, text] of planted) {
    mkdirSync(dirname(join(copy, file)), { recursive: true })
    writeFileSync(join(copy, file), `${text}\n`)
  }
  const after = run(command)
  for (const [file, , fault] of planted) {
    const says = (output: string) =>
      output.split('\n').some(line => line.startsWith(`${file}:`) && line.includes(fault))
    if (says(after.output) && !says(before.output) && after.status !== 0) continue
    missing += 1
    console.log(`${name}: ${file} did not meet "${fault}"`)
  }
  console.log(`${name}: ${planted.length} planted`)
}

function run(args: readonly string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: copy, encoding: 'utf8' })
  return { status, output: stdout + stderr }
}
