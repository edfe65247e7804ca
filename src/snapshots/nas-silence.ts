import { UserError } from '../errors.ts'
import { within } from './within.ts'

/** How long a NAS may take for one thing; members wait for it. */
const PATIENCE_MS = 60_000

/** The NAS has not answered for so long that whoever asked it is given up. */
export class NasSilence extends UserError {
  readonly ms: number

  constructor(ms: number) {
    super('snapshots-unavailable', `The NAS has not answered for ${ms / 1000} s.`, {
      hint: 'Please tell your admin, who finds the fault with: berth doctor'
    })
    this.ms = ms
  }
}

/** Resolves as `work` does; what the NAS keeps longer is left to its fate. @throws NasSilence */
export const unlessSilent = <T>(work: Promise<T>, ms = PATIENCE_MS): Promise<T> =>
  within(work, ms, () => new NasSilence(ms))
