import type { AdminCommand, AdminGroup } from './admin-command.ts'

type Load = () => Promise<AdminCommand | AdminGroup>

/** The subcommands of `berth`, in the order of its help. */
const COMMANDS: Readonly<Record<string, Load>> = {
  serve: async () => (await import('./serve.ts')).serve,
  init: async () => (await import('./init.ts')).init,
  demo: async () => (await import('./demo.ts')).demo,
  doctor: async () => (await import('./doctor.ts')).doctor,
  user: async () => (await import('./user.ts')).user,
  key: async () => (await import('./key.ts')).key,
  invite: async () => (await import('./invite.ts')).invite,
  node: async () => (await import('./node.ts')).node,
  template: async () => (await import('./template.ts')).template,
  snapshot: async () => (await import('./snapshot.ts')).snapshot,
  operations: async () => (await import('./operations.ts')).operations,
  audit: async () => (await import('./audit.ts')).audit,
  backup: async () => (await import('./backup.ts')).backup
}

/** The subcommand of that word alone, or all of them: loading them all costs more than most of them do. */
export function loadCommands(word: string | undefined): Promise<(AdminCommand | AdminGroup)[]> {
  const one = word !== undefined && Object.hasOwn(COMMANDS, word) ? COMMANDS[word] : undefined
  return Promise.all((one ? [one] : Object.values(COMMANDS)).map(load => load()))
}
