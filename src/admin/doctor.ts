import type { Config } from '../config.ts'
import { defineCommand, jsonOption } from './admin-command.ts'
import { type Finding, guard, type Report } from './checks/finding.ts'
import { checkMachine } from './checks/machine.ts'
import { checkNode } from './checks/node.ts'
import { checkState } from './checks/state.ts'
import type { Console } from './console.ts'
import { countOf } from '../command/units.ts'

/** Looks at everything, or at one node alone; changes nothing. */
export async function examine(config: Config, onlyNode?: string): Promise<Report[]> {
  const nodes = [...config.nodes.values()].filter(node => onlyNode === undefined || node.name === onlyNode)
  const own = async (): Promise<Finding[]> => [...(await checkState(config)), ...(await checkMachine(config))]
  return Promise.all([
    ...(onlyNode === undefined ? [own().then(findings => ({ node: undefined, findings }))] : []),
    ...nodes.map(async node => ({ node: node.name, findings: await guard('lxd', () => checkNode(config, node)) }))
  ])
}

/** @returns the exit code: 1 if there is any fault */
export function printReports(console: Console, reports: Report[], json: boolean): number {
  const findings = reports.flatMap(report => report.findings)
  const count = (level: Finding['level']): number => findings.filter(finding => finding.level === level).length
  const exitCode = count('fault') > 0 ? 1 : 0
  if (json) {
    console.json({ faults: count('fault'), warnings: count('warning'), reports })
    return exitCode
  }
  const { colors } = console
  const marks = { ok: colors.green('ok     '), warning: colors.yellow('warning'), fault: colors.red('FAULT  ') }
  for (const { node, findings: found } of reports) {
    console.out(colors.bold(node === undefined ? 'berth' : `node ${node}`))
    for (const { level, check, text, mend } of found) {
      console.out(`  ${marks[level]} ${check}: ${text}`)
      if (mend !== undefined) console.out(`          ${colors.cyan(mend)}`)
    }
  }
  console.out(`${countOf(count('fault'), 'fault')}, ${countOf(count('warning'), 'warning')}.`)
  return exitCode
}

export const doctor = defineCommand({
  command: 'doctor',
  describe: 'look for everything that can go wrong, and say what mends it',
  epilogue: 'Changes nothing, and may be run at any time. Exit code 1 if there is any fault; warnings alone are 0.',
  builder: yargs => yargs.option('json', jsonOption),
  async handler({ json }, { console, loadConfig }) {
    const config = loadConfig()
    console.report('looking at this machine and every node')
    return printReports(console, await examine(config), json)
  }
})
