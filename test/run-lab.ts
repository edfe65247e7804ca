import { downLab, listLabs } from './lab/lab.ts'
import { checkMachine } from './lab/machine.ts'
import { installPackages } from './lab/packages.ts'

/** What tests call beside what a lab needs. */
const PROGRAMS = ['netcat-openbsd', 'curl', 'nginx']

/** One lab for all files of a run, brought up by the first test that wants it and taken down here at the end. */
export default async function setUp(): Promise<() => Promise<void>> {
  await checkMachine()
  for (const { name } of await listLabs()) {
    const pid = /^run-(\d+)/.exec(name)?.[1]
    if (pid !== undefined && !isAlive(Number(pid))) await downLab(name)
  }
  await installPackages(line => console.log(line), PROGRAMS)
  const lab = `run-${process.pid}`
  process.env['BERTH_TEST_LAB'] = lab
  return () => downLab(lab)
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
