import { parseSeconds } from './units.ts'

/** The option `--timeout` of the commands that stop a container. */
export const stopTimeoutOption = {
  type: 'string',
  default: '30',
  requiresArg: true,
  describe: 'seconds to wait before it is killed (0 to 600)'
} as const

/** Its value in milliseconds. @throws UserError `usage` */
export const stopTimeoutMs = (timeout: string): number => parseSeconds('timeout', timeout, 600) * 1000
