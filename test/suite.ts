import { inject, it } from 'vitest'

declare module 'vitest' {
  export interface ProvidedContext {
    suite: 'short' | 'long'
  }
}

/** Whether this is `npm run test:long`, which runs some files of `npm test` again, with all that those leave out. */
export const LONG = inject('suite') === 'long'

export const SERVERS = LONG ? (['lxd', 'incus'] as const) : (['lxd'] as const)

/** A test that `npm test` leaves out. */
export const itLong: (name: string, test: () => Promise<void>) => void = LONG ? it : () => {}

/** A call whose end is awaited later: a test that fails before that fails for its own reason alone. */
export function later<T>(call: Promise<T>): Promise<T> {
  call.catch(() => {})
  return call
}
