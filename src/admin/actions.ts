import type { Action } from './action.ts'
import { auditActions } from './audit.ts'
import { inviteActions } from './invite.ts'
import { keyActions } from './key.ts'
import { userActions } from './user-actions.ts'

/** Everything that `berth serve` performs for subcommands over berth.sock. */
export const actions = [...userActions, ...keyActions, ...inviteActions, ...auditActions] as Action[]
