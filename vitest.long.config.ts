import { defineConfig } from 'vitest/config'
import base from './vitest.config.ts'

/** `npm run test:long`: what five minutes do not hold, the same on Incus, in every variant, and what has to wait for the clock. */
export default defineConfig({
  test: { ...base.test, include: ['test/**/*.long.test.ts'], exclude: [], provide: { suite: 'long' } }
})
