import type { UserKey } from '../directory/keys.ts'

/** A key as `--json` shows it. */
export interface KeyEntry {
  type: string
  bits: number
  fingerprint: string
  comment: string
  addedAtMs: number
  lastUsedAtMs: number | null
  lastUsedAddress: string | null
}

export const keyEntry = (key: UserKey): KeyEntry => ({
  type: key.type,
  bits: key.bits,
  fingerprint: key.fingerprint,
  comment: key.comment,
  addedAtMs: key.addedAtMs,
  lastUsedAtMs: key.lastUsedAtMs ?? null,
  lastUsedAddress: key.lastUsedAddress ?? null
})

/** Two lines a key, since a fingerprint alone takes 50 columns; `own` is the fingerprint of the one in use. */
export function describeKeys(keys: readonly KeyEntry[], formatTime: (atMs: number) => string, own?: string): string {
  const lines = keys.flatMap(({ fingerprint, type, comment, addedAtMs, lastUsedAtMs, lastUsedAddress }) => {
    const used =
      lastUsedAtMs === null
        ? 'never used'
        : `last used ${formatTime(lastUsedAtMs)} from ${lastUsedAddress ?? 'nowhere'}`
    const facts = [`added ${formatTime(addedAtMs)}`, used, ...(fingerprint === own ? ['this one'] : [])]
    return [`${fingerprint}  ${type}  ${comment}`.trimEnd(), `    ${facts.join(', ')}`]
  })
  return lines.join('\n')
}
