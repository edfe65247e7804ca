import type { Action } from './action.ts'
import { auditActions } from './audit.ts'
import { inviteActions } from './invite.ts'
import { keyActions } from './key.ts'
import { nodeActions } from './node-actions.ts'
import { snapshotActions } from './snapshot.ts'
import { operationActions } from './operations.ts'
import { templateActions } from './template.ts'
import { userActions } from './user-actions.ts'

/** Everything that `berth serve` performs for subcommands over berth.sock. */
export const actions = [
  ...userActions,
  ...keyActions,
  ...inviteActions,
  ...nodeActions,
  ...templateActions,
  ...snapshotActions,
  ...operationActions,
  ...auditActions
] as Action[]
