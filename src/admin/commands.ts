import type { AdminCommand, AdminGroup } from './admin-command.ts'
import { audit } from './audit.ts'
import { backup } from './backup.ts'
import { demo } from './demo.ts'
import { doctor } from './doctor.ts'
import { init } from './init.ts'
import { invite } from './invite.ts'
import { key } from './key.ts'
import { node } from './node.ts'
import { serve } from './serve.ts'
import { template } from './template.ts'
import { user } from './user.ts'

/** The subcommands of `berth`, in the order of its help. */
export const commands: readonly (AdminCommand | AdminGroup)[] = [
  serve,
  init,
  demo,
  doctor,
  user,
  key,
  invite,
  node,
  template,
  audit,
  backup
]
