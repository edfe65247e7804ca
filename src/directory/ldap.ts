import type { User } from './users.ts'

/** Somebody whose password the lab's directory has just confirmed. */
export interface SignedIn {
  readonly user: User
  /** Whatever the directory says: hostile text until escaped. */
  readonly displayName: string
  readonly email: string
}

/** Signing in with the lab's directory. */
export interface PasswordSignIn {
  /**
   * @throws UserError `sign-in-failed` for a wrong password and an unknown name alike, in the same time; `not-allowed` for a right
   *   password of somebody outside the required group; `user-disabled`; `directory-unavailable`; `busy`
   */
  authenticate(login: string, password: string): Promise<SignedIn>
}
