import { defineConfig } from 'vitest/config'
import type { Reporter } from 'vitest/node'
import base from './vitest.config.ts'

/** Nobody waits an hour to read what went wrong in the first minute. */
const tellFailures: Reporter = {
  onTestCaseResult(test) {
    for (const { message, stack } of test.result().errors ?? [])
      process.stdout.write(`${test.fullName}: ${message}\n${stack}\n`)
  }
}

/** `npm run test:crash`: hours rather than minutes, so apart from `npm test`. */
export default defineConfig({
  test: {
    ...base.test,
    include: ['test/crash/**/*.test.ts'],
    exclude: [],
    fileParallelism: false,
    reporters: ['default', tellFailures],
    hookTimeout: 600_000
  }
})
