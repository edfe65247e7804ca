import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { Confirmation, Replacements } from '../snapshots/replacements.ts'
import type { Tokens } from '../snapshots/tokens.ts'
import type { Invocation } from './command.ts'
import { loginLine, manageLine } from './lines.ts'
import { formatTime } from './units.ts'

/** What `recover` and `rebuild` have in common for those who type them. */
export interface ReplacingParts {
  readonly replacements: Replacements
  readonly tokens: Tokens
}

/** Spends a typed token, or says which line gives a new one. */
export function confirmBy(
  tokens: Tokens,
  user: User,
  token: string,
  verb: string,
  invocation: Invocation
): Confirmation {
  const purpose = { user, node: invocation.node.name, action: 'replace' } as const
  const again = manageLine(invocation.node, verb)
  return {
    check: () => tokens.check(token, purpose, again),
    spend: () => tokens.spend(token, purpose, again)
  }
}

/** Is such work under way already? Then its progress is shown to its end. */
export async function followRunning(
  { replacements }: ReplacingParts,
  user: User,
  invocation: Invocation
): Promise<boolean> {
  const { node, reply } = invocation
  const progress = reply.progress(`Replacing your container on ${node.name}`)
  const followed = await replacements.follow(user, node, progress.update).finally(() => progress.done())
  if (followed) reply.out(`It has ended. See: ${manageLine(node, 'status')}`)
  return followed
}

/** The end of what is said before the member decides: what stays for a while, how to keep more, and the line to go on with. */
export async function offerToken(
  { replacements, tokens }: ReplacingParts,
  user: User,
  words: (token: string) => string,
  invocation: Invocation
): Promise<void> {
  const { node, reply } = invocation
  const kept = replacements.kept(user, node)
  reply.out(
    `The present one is kept until ${formatTime(Date.now() + replacements.keepMs)} UTC: \`recover --undo\` brings it back.`
  )
  if (kept) reply.out(`The one kept since ${formatTime(kept.replacedAtMs)} UTC is deleted then.`)
  // LXD may have lost the container: then there is nothing to stop or to save.
  if (await replacements.needStopped(user, node)) reply.out(`Save it first:  ${manageLine(node, 'snapshot')}`)
  const { token } = tokens.issue({ user, node: node.name, action: 'replace' })
  reply.out('Nothing has been done yet. To go on, within 5 minutes:')
  reply.out(`  ${manageLine(node, words(token))}`)
}

/** Rebuilds from the template of that name, after the token has been spent. */
export async function rebuildFrom(
  { replacements, tokens }: ReplacingParts,
  user: User,
  name: string,
  token: string,
  invocation: Invocation
): Promise<void> {
  const { node, reply } = invocation
  const confirmation = confirmBy(tokens, user, token, 'rebuild', invocation)
  confirmation.check()
  const template = replacements.templateCalled(name)
  const progress = reply.progress(`Rebuilding on ${node.name} from ${template.name}`)
  await replacements.rebuild(user, node, template, confirmation, progress.update).finally(() => progress.done())
  reply.out(`Your container on ${node.name} is a fresh one from ${template.name}.`)
  tellNext(invocation)
}

export function tellNext({ node, reply }: Invocation): void {
  reply.out(`Start it:    ${manageLine(node)}`)
  reply.out(`Log in:      ${loginLine(node)}`)
  reply.out(`Take back:   ${manageLine(node, 'recover --undo')}`)
}

/** @throws UserError `usage` */
export function missingWord(what: string, verb: string, { node }: Invocation): never {
  throw new UserError('usage', `Which ${what}? Its name is missing.`, { hint: `See: ${manageLine(node, verb)}` })
}
