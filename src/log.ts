import pino from 'pino'

export type Log = pino.Logger

/** One JSON line an event on standard output. Levels as pino's; `silent` for a command line that prints for people. */
export function createLog(level: pino.LevelWithSilent, destination: pino.DestinationStream = standardOutput()): Log {
  return pino(
    {
      base: null,
      level,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
      // Secrets are kept out where they arise (command/audit masks words); this is the second wall.
      redact: {
        paths: ['code', 'token', 'privateKey', 'password', '*.code', '*.token', '*.privateKey', '*.password'],
        censor: '***'
      }
    },
    destination
  )
}

/** Never waited for: whoever reads the log slowly, or not at all, must not hold up a member. Beyond 16 MiB unread, lines are dropped. */
const standardOutput = () => pino.destination({ fd: 1, sync: false, maxLength: 16 * 2 ** 20 })
