import { readdirSync, readFileSync } from 'node:fs'

/** Proportional set size (proc_pid_smaps(5)): pages shared by n processes count 1/n each. 0 of one that has ended. */
export function pssKiB(pid: number): number {
  try {
    return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** Of a process and all its descendants. */
export function familyKiB(pid: number): number {
  return family(pid).reduce((sum, member) => sum + pssKiB(member), 0)
}

function family(pid: number): number[] {
  const parents = new Map<number, number>()
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      // proc_pid_stat(5): the name stands in parentheses and may hold spaces.
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8').replace(/^.*\) /s, '')
      parents.set(Number(entry), Number(stat.split(' ')[1]))
    } catch {
      // It ended while we looked.
    }
  }
  const children = [...parents].filter(([, parent]) => parent === pid).map(([child]) => child)
  return [pid, ...children.flatMap(family)]
}
