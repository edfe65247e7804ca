import { defineConfig } from 'vitest/config'

/** `npm test`, and what the other suites have in common with it. */
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/**/*.long.test.ts', 'test/crash/**'],
    provide: { suite: 'short' },
    globalSetup: ['test/run-lab.ts'],
    pool: 'forks',
    // Each file has a daemon and containers of its own, and waits for containers half of the time.
    maxWorkers: 4,
    testTimeout: 120_000,
    // The first hook of a cold run waits until the images are built.
    hookTimeout: 600_000,
    // A shared machine's hiccup must not hold up everybody's work; a test that needed its second try is reported as flaky.
    retry: process.env['CI'] === undefined ? 0 : 1,
    // What takes milliseconds alone takes seconds on a busy machine.
    expect: { requireAssertions: true, poll: { timeout: 20_000 } },
    allowOnly: false
  }
})
