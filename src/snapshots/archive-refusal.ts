import { UserError } from '../errors.ts'

/** @throws UserError `archive-refused`: `why` is a sentence about the archive */
export function refuseArchive(why: string): never {
  throw new UserError('archive-refused', why, {
    hint: 'Your container is as it was. Please tell your admin: someone or something has changed the archive.'
  })
}

/** Text of the archive's as it may be shown: printable ASCII, not too long. */
export function quote(text: string): string {
  const shown = text.length > 120 ? `${text.slice(0, 120)}…` : text
  return JSON.stringify(shown).replaceAll(/[^\x20-\x7e…]/g, '?')
}
