import { mkdtempSync, readdirSync, chmodSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { downLab, listLabs } from './lab/lab.ts'
import { checkMachine } from './lab/machine.ts'
import { installPackages } from './lab/packages.ts'
import { run } from './lab/run.ts'

/** What tests call beside what a lab needs. */
const PROGRAMS = ['netcat-openbsd', 'curl', 'nginx']

/**
 * One lab for all files of a run, brought up by the first test that wants it, and one directory for all their files; both are taken
 * away here at the end. What a killed run left goes with the next one.
 */
export default async function setUp(): Promise<() => Promise<void>> {
  await checkMachine()
  for (const { name } of await listLabs()) if (isLeft(name, /^run-(\d+)/)) await downLab(name)
  for (const name of readdirSync(tmpdir())) if (isLeft(name, /^berth-(\d+)-/)) await removeFiles(join(tmpdir(), name))
  await installPackages(line => console.log(line), PROGRAMS)
  const lab = `run-${process.pid}`
  const directory = mkdtempSync(join(tmpdir(), `berth-${process.pid}-`))
  // Containers, and daemons that are not root, reach their files through it.
  chmodSync(directory, 0o755)
  process.env['BERTH_TEST_LAB'] = lab
  process.env['TMPDIR'] = directory
  return async () => {
    await downLab(lab)
    await removeFiles(directory)
  }
}

/** Not through a mount that a test has left: behind it may be anything. */
const removeFiles = (directory: string): Promise<string> => run('rm', '-rf', '--one-file-system', directory)

/** Does the name carry the number of a process that is no more? */
function isLeft(name: string, pattern: RegExp): boolean {
  const pid = pattern.exec(name)?.[1]
  return pid !== undefined && !isAlive(Number(pid))
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
