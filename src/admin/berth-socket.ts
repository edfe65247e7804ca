import { randomBytes } from 'node:crypto'
import { unlinkSync } from 'node:fs'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import type { App } from '../app.ts'
import { reasons, toUserError, UserError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Report } from '../operations/operations.ts'
import { type Action, runAction } from './action.ts'
import { BERTH_VERSION } from './version.ts'

/** sun_path of unix(7) holds 108 bytes with the final zero. */
const MAX_SOCKET_PATH_BYTES = 107

const socketPath = (stateDir: string): string => join(stateDir, 'berth.sock')

const receivedErrorSchema = z.object({
  reason: z.enum(reasons),
  details: z.string().optional(),
  hint: z.string().optional()
})

/** The lines of an answer (NDJSON): any number of steps, then a result or an error. */
const answerLine = z.union([
  z.object({ step: z.string(), fraction: z.number().optional() }),
  z.object({ result: z.unknown() }),
  z.object({ error: receivedErrorSchema })
])

/**
 * Listens on stateDir/berth.sock, for root alone: POST /ACTION with the parameters as JSON. Call it with the state locked: a
 * socket file that is there already then belongs to a dead process.
 */
export async function listenOnBerthSocket(
  app: App,
  actions: readonly Action[],
  log: Log
): Promise<{ close(): Promise<void> }> {
  const path = socketPath(app.config.stateDir)
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw new UserError('bad-config', `stateDir is too long: ${path} is no possible name of a socket.`, {
      hint: 'Choose a shorter stateDir in berth.yaml.'
    })
  }
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  const server = createServer((incoming, outgoing) => {
    void answer(app, actions, log, incoming, outgoing)
  })
  // listen() creates the file before any chmod could narrow it: the mask must be right already.
  const mask = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve))
  } finally {
    process.umask(mask)
  }
  return {
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeIdleConnections()
      })
  }
}

async function answer(
  app: App,
  actions: readonly Action[],
  log: Log,
  incoming: IncomingMessage,
  outgoing: ServerResponse
): Promise<void> {
  const name = incoming.url?.slice(1)
  const write = (line: z.input<typeof answerLine>) => outgoing.write(`${JSON.stringify(line)}\n`)
  // An admin who presses Ctrl-C leaves; what has begun goes on.
  outgoing.on('error', () => undefined)
  outgoing.writeHead(200, { 'content-type': 'application/x-ndjson', 'berth-version': BERTH_VERSION })
  const startedAtMs = Date.now()
  const session = `admin-${randomBytes(4).toString('hex')}`
  const finish = (outcome: string, cause?: unknown) =>
    log.info({ session, action: name, outcome, durationMs: Date.now() - startedAtMs, err: cause }, 'admin')
  try {
    if (incoming.headers['berth-version'] !== BERTH_VERSION) {
      throw new UserError('locked-state', `The berth that runs is ${BERTH_VERSION}, this one is another.`, {
        hint: 'Restart it: systemctl restart berth'
      })
    }
    const action = actions.find(candidate => candidate.name === name)
    if (action === undefined) throw new UserError('unknown-command', `No action ${name}.`)
    const result = await runAction(app, action, JSON.parse(await text(incoming)), (step, fraction) => {
      write({ step, fraction })
    })
    write({ result: result ?? null })
    finish('done')
  } catch (error) {
    const { reason, details, hint, cause } = toUserError(error, session)
    finish(reason, cause)
    write({ error: { reason, details, hint } })
  } finally {
    outgoing.end()
  }
}

/**
 * Has `berth serve` perform an action.
 * @returns undefined when no `serve` listens: no socket, or a dead one
 * @throws UserError whatever the action throws there; `locked-state` when the daemon is of another version
 */
export async function callBerth<Params, Result>(
  stateDir: string,
  action: Action<Params, Result>,
  params: Params,
  report: Report
): Promise<{ result: Result } | undefined> {
  const incoming = await post(socketPath(stateDir), action.name, JSON.stringify(params))
  if (incoming === undefined) return undefined
  for await (const raw of createInterface({ input: incoming })) {
    const line = answerLine.parse(JSON.parse(raw))
    if ('step' in line) report(line.step, line.fraction)
    else if ('error' in line) throw receivedError(line.error)
    // Both ends are of the same version (checked above): the result is what the action's type says.
    else return { result: line.result as Result }
  }
  throw new UserError('shutting-down', 'berth serve ended before it answered.', {
    hint: 'Look at its log, then at the state with `berth user show NAME`, and try again.'
  })
}

function receivedError({ reason, details, hint }: z.output<typeof receivedErrorSchema>): UserError {
  return new UserError(reason, details, hint === undefined ? {} : { hint })
}

function post(path: string, name: string, body: string): Promise<IncomingMessage | undefined> {
  return new Promise((resolve, reject) => {
    const outgoing = request({
      socketPath: path,
      method: 'POST',
      path: `/${name}`,
      headers: { 'berth-version': BERTH_VERSION }
    })
    outgoing.on('response', resolve)
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(undefined)
      else reject(error)
    })
    outgoing.end(body)
  })
}
