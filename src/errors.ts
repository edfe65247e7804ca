/**
 * Every failure a person can meet by their own or the lab's circumstances. The lists are closed: one row gives a reason its
 * words and its exit code (sysexits.h), so that scripts may rely on them. These can reach a member, over SSH:
 */
const MEMBER_REASONS = {
  usage: { exitCode: 64, words: 'That command line is not understood.' },
  'unknown-command': { exitCode: 64, words: 'There is no such command.' },
  'command-line-refused': { exitCode: 64, words: 'That command line is refused.' },
  'unknown-key': { exitCode: 64, words: 'There is no such key.' },
  'unknown-template': { exitCode: 64, words: 'There is no such template.' },
  'unknown-snapshot': { exitCode: 64, words: 'There is no such snapshot.' },
  'nothing-kept': { exitCode: 64, words: 'There is nothing to bring back.' },
  'not-registered': { exitCode: 64, words: 'There is no container on this node yet.' },
  'bad-key': { exitCode: 65, words: 'That is not a public key berth can take.' },
  'bad-user-name': { exitCode: 65, words: 'That is not a valid user name.' },
  'archive-refused': { exitCode: 65, words: 'The archive is refused.' },
  'node-unavailable': { exitCode: 69, words: 'The node does not answer.' },
  'no-web': { exitCode: 69, words: 'There are no web pages here.' },
  'image-missing': { exitCode: 69, words: 'The template has no image on this node.' },
  'snapshots-unavailable': { exitCode: 69, words: 'The place for snapshots cannot be used.' },
  'image-unfit': { exitCode: 69, words: 'The template cannot run on this node.' },
  internal: { exitCode: 70, words: 'berth made a mistake.' },
  'cannot-create': { exitCode: 73, words: 'The container could not be created.' },
  'provisioning-failed': { exitCode: 73, words: 'The container could not be set up.' },
  'addresses-exhausted': { exitCode: 73, words: 'No free address is left on the node.' },
  'snapshot-failed': { exitCode: 73, words: 'The snapshot could not be made.' },
  'limit-reached': { exitCode: 73, words: 'That is more than you may keep.' },
  'no-space': { exitCode: 73, words: 'There is not enough space.' },
  'port-taken': { exitCode: 73, words: 'That port is taken.' },
  'ports-exhausted': { exitCode: 73, words: 'No free port is left.' },
  busy: { exitCode: 75, words: 'Another operation is running.' },
  'start-failed': { exitCode: 75, words: 'The container did not start.' },
  'stop-failed': { exitCode: 75, words: 'The container did not stop.' },
  unreachable: { exitCode: 75, words: 'The container runs, but its SSH does not answer.' },
  'not-running': { exitCode: 75, words: 'The container is not running.' },
  'not-stopped': { exitCode: 75, words: 'The container is not stopped.' },
  'not-allowed': { exitCode: 77, words: 'That is not allowed.' },
  'user-disabled': { exitCode: 77, words: 'This account is disabled.' },
  'token-invalid': { exitCode: 77, words: 'That token is wrong, used or expired.' },
  'invite-invalid': { exitCode: 77, words: 'That code is wrong, used or expired.' },
  'last-key': { exitCode: 77, words: 'The last key cannot be removed.' },
  'key-taken': { exitCode: 77, words: 'That key belongs to another user.' }
} as const

/** These only somebody in front of the web pages. */
const WEB_REASONS = {
  'bad-request': { exitCode: 64, words: 'That request is not understood.' },
  'no-such-page': { exitCode: 64, words: 'There is no such page.' },
  'too-large': { exitCode: 65, words: 'That is too much at once.' },
  'signed-out': { exitCode: 77, words: 'You are not signed in.' },
  'too-many-tries': { exitCode: 75, words: 'That was tried too often.' },
  'form-expired': { exitCode: 77, words: 'The form was too old to be trusted.' },
  'sign-in-failed': { exitCode: 77, words: 'That name and password do not let you in.' },
  'link-invalid': { exitCode: 77, words: 'That link is wrong, used or expired.' },
  'directory-unavailable': { exitCode: 69, words: "The lab's directory does not answer." }
} as const

/** These only an admin, on berth's own command line. */
const ADMIN_REASONS = {
  'unknown-user': { exitCode: 64, words: 'There is no such user.' },
  'unknown-node': { exitCode: 64, words: 'There is no such node.' },
  'no-config': { exitCode: 65, words: 'There is no configuration yet.' },
  'bad-config': { exitCode: 65, words: 'The configuration is not valid.' },
  'bad-recipe': { exitCode: 65, words: 'The image recipe is not valid.' },
  'newer-database': { exitCode: 65, words: 'The database was written by a newer berth.' },
  'cannot-build': { exitCode: 73, words: 'The image could not be built.' },
  exists: { exitCode: 73, words: 'It exists already.' },
  'locked-state': { exitCode: 75, words: 'Another berth process holds the state.' },
  'shutting-down': { exitCode: 75, words: 'berth is shutting down.' }
} as const

const REASONS = { ...MEMBER_REASONS, ...WEB_REASONS, ...ADMIN_REASONS }

export type MemberReason = keyof typeof MEMBER_REASONS
export type Reason = keyof typeof REASONS

export const reasons = Object.keys(REASONS) as Reason[]

interface Extra {
  /** What to do next: usually a command line to type. */
  hint?: string
  cause?: unknown
}

/** A failure to show as it is: `reason` decides the exit code, `details` says what happened here, `hint` what to do next. */
export class UserError extends Error {
  readonly reason: Reason
  readonly details: string | undefined
  readonly hint: string | undefined

  constructor(reason: Reason, details?: string, { hint, cause }: Extra = {}) {
    super(details ?? REASONS[reason].words, cause === undefined ? undefined : { cause })
    this.name = 'UserError'
    this.reason = reason
    this.details = details
    this.hint = hint
  }

  get exitCode(): number {
    return REASONS[this.reason].exitCode
  }
}

/** The lines a person sees: what happened, then the details, then the next step. */
export function describeError(error: UserError): string[] {
  const { words } = REASONS[error.reason]
  const first = error.details === undefined ? words : `${words} ${error.details}`
  return error.hint === undefined ? [first] : [first, error.hint]
}

/** Anything thrown becomes a UserError; what berth did not foresee becomes `internal` and names only the session. */
export function toUserError(error: unknown, sessionId: string): UserError {
  if (error instanceof UserError) return error
  return new UserError('internal', `The details are in its log under ${sessionId}.`, {
    hint: 'Please tell your admin that id.',
    cause: error
  })
}
