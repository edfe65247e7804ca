/** One thing looked at. `mend` is what to type or to write into berth.yaml; every fault and warning has one. */
export interface Finding {
  readonly check: string
  readonly level: 'ok' | 'warning' | 'fault'
  readonly text: string
  readonly mend?: string
}

/** `node` undefined: the machine berth runs on. */
export interface Report {
  readonly node: string | undefined
  readonly findings: readonly Finding[]
}

export const ok = (check: string, text: string): Finding => ({ check, level: 'ok', text })

export const warning = (check: string, text: string, mend: string): Finding => ({ check, level: 'warning', text, mend })

export const fault = (check: string, text: string, mend: string): Finding => ({ check, level: 'fault', text, mend })

/** A check that breaks is a finding too: the others go on. */
export async function guard(check: string, look: () => Promise<Finding[]> | Finding[]): Promise<Finding[]> {
  try {
    return await look()
  } catch (error) {
    return [
      fault(
        check,
        `could not be looked at: ${(error as Error).message}`,
        'Mend the other faults, then type: berth doctor'
      )
    ]
  }
}
