import pino from 'pino'

export type Log = pino.Logger

/** One JSON line an event on standard output. Levels as pino's; `silent` for a command line that prints for people. */
export function createLog(
  level: pino.LevelWithSilent,
  destination: pino.DestinationStream = pino.destination({ fd: 1, sync: true })
): Log {
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
