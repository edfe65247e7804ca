import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Principal } from './command.ts'

/** The user behind a principal. Only `enroll` logs in without one, so its absence elsewhere is refused. */
export function requireUser(principal: Principal): User {
  if (!principal.user)
    throw new UserError('not-allowed', "That key is nobody's yet.", {
      hint: 'Enrol it first with an invite from your admin.'
    })
  return principal.user
}
