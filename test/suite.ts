import { inject } from 'vitest'

declare module 'vitest' {
  export interface ProvidedContext {
    suite: 'short' | 'long'
  }
}

/** Whether this is `npm run test:long`, which runs some files of `npm test` again, for what those leave out. */
export const LONG = inject('suite') === 'long'

/** Shown on LXD by `npm test`, again on Incus by the long suite. */
export const SERVERS = LONG ? (['incus'] as const) : (['lxd'] as const)
