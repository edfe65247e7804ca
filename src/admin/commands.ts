import type { AdminCommand, AdminGroup } from './admin-command.ts'
import { audit } from './audit.ts'
import { backup } from './backup.ts'
import { demo } from './demo.ts'
import { invite } from './invite.ts'
import { key } from './key.ts'
import { serve } from './serve.ts'
import { user } from './user.ts'

/** The subcommands of `berth`, in the order of its help. */
export const commands: readonly (AdminCommand | AdminGroup)[] = [serve, demo, user, key, invite, audit, backup]
