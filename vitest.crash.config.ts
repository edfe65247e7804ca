import { defineConfig } from 'vitest/config'
import base from './vitest.config.ts'

/** `npm run test:crash`: hours rather than minutes, so apart from `npm test`. */
export default defineConfig({
  test: {
    ...base.test,
    include: ['test/crash/**/*.test.ts'],
    exclude: [],
    fileParallelism: false,
    hookTimeout: 600_000
  }
})
