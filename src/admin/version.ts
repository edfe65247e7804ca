import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'

/** The checkout this process runs from. */
export const BERTH_ROOT = join(import.meta.dirname, '../..')

export const BERTH_VERSION = z
  .object({ version: z.string() })
  .parse(JSON.parse(readFileSync(join(BERTH_ROOT, 'package.json'), 'utf8'))).version
