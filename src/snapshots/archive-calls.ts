import { UserError, type Reason } from '../errors.ts'
import { LxdError, type LxdFault } from '../lxd/lxd-error.ts'
import type { Calls } from './archive-process.ts'
import { NasSilence } from './nas-silence.ts'

/* What is said between berth and its processes for archives. */

export interface Call {
  readonly id: number
  readonly name: keyof Calls
  readonly args: readonly unknown[]
}

export type Answer =
  | { readonly id: number; readonly doneBytes: number }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly fault: Fault }

/** An error on its way: of the classes that decisions are made by, what they are made by. */
type Fault = { readonly message: string; readonly stack: string } & (
  | {
      readonly kind: 'user'
      readonly reason: Reason
      readonly details?: string
      readonly hint?: string
      readonly isSilence: boolean
    }
  | { readonly kind: 'lxd'; readonly fault: LxdFault; readonly status: number; readonly operation?: string }
  | { readonly kind: 'other'; readonly code?: string; readonly syscall?: string }
)

export function packFault(error: unknown): Fault {
  const { message, stack = message } = error as Error
  if (error instanceof UserError) {
    const { reason, details, hint } = error
    const isSilence = error instanceof NasSilence
    return {
      kind: 'user',
      message,
      stack,
      reason,
      isSilence,
      ...(details !== undefined && { details }),
      ...(hint !== undefined && { hint })
    }
  }
  if (error instanceof LxdError) {
    const { fault, status, operation } = error
    return { kind: 'lxd', message, stack, fault, status, ...(operation !== undefined && { operation }) }
  }
  const { code, syscall } = error as NodeJS.ErrnoException
  return {
    kind: 'other',
    message,
    stack,
    ...(code !== undefined && { code }),
    ...(syscall !== undefined && { syscall })
  }
}

export function unpackFault(fault: Fault): Error {
  const { message, stack } = fault
  const error =
    fault.kind === 'user'
      ? new UserError(fault.reason, fault.details, fault)
      : fault.kind === 'lxd'
        ? new LxdError(fault.fault, message, fault)
        : Object.assign(new Error(message), { code: fault.code, syscall: fault.syscall })
  return Object.assign(error, { stack })
}
