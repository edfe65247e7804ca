/** `Copy` is archived, `New` is to become the container or only looked into, `Old` was replaced and is kept for a while. */
export type Purpose = 'Copy' | 'New' | 'Old'

export interface TemporaryName {
  /** The member's name. */
  readonly user: string
  readonly purpose: Purpose
  readonly madeAtMs: number
}

/**
 * A name for an instance that stands beside the member's: with a capital letter in it, so that no user's can be the same, and
 * within the 63 letters of a host name (RFC 1123). Two of a user's are never made in the same millisecond.
 */
export function temporaryName(user: string, purpose: Purpose, madeAtMs: number = Date.now()): string {
  return `${user}-${purpose}-${madeAtMs.toString(36)}`
}

/** Reads a temporary name; undefined for any other. */
export function parseTemporaryName(name: string): TemporaryName | undefined {
  const [, user, purpose, madeAt] = /^([a-z][a-z0-9-]{0,30})-(Copy|New|Old)-([0-9a-z]{8,9})$/.exec(name) ?? []
  if (user === undefined || purpose === undefined || madeAt === undefined) return undefined
  return { user, purpose: purpose as Purpose, madeAtMs: Number.parseInt(madeAt, 36) }
}
