import { readFileSync } from 'node:fs'
import type { Invocation } from '../../src/command/command.ts'
import type { RunCommand } from '../../src/command/run-command.ts'
import type { NodeConfig } from '../../src/config.ts'
import { openDatabase } from '../../src/db/open.ts'
import { Keys } from '../../src/directory/keys.ts'
import { parsePublicKey } from '../../src/directory/public-key.ts'
import { Users } from '../../src/directory/users.ts'
import { describeError, toUserError } from '../../src/errors.ts'
import { createLog } from '../../src/log.ts'
import { loadOrCreateHostKey } from '../../src/ssh/host-key.ts'
import { startSshServer } from '../../src/ssh/server.ts'

/**
 * A manage endpoint in a process of its own, with a few commands that exercise the channel. Told by IPC what to do; its log is
 * on standard output.
 */
export interface EndpointOptions {
  directory: string
  listen: string
  users: { name: string; publicKeys: string[] }[]
  userCas: string[]
  limits: object
}

const commands: Record<string, (words: string[], invocation: Invocation) => Promise<number> | number> = {
  start({ length }, { reply, principal, terminal, address }) {
    reply.out(`hello ${principal.user?.name ?? 'nobody'} as ${principal.role} from ${address} ${length}`)
    reply.out(`terminal ${terminal ? `${terminal.term} ${terminal.columns}x${terminal.rows}` : 'none'}`)
    return 0
  },
  words(words, { reply }) {
    reply.json(words)
    return 0
  },
  say([stream, text = ''], { reply }) {
    if (stream === 'err') reply.err(text)
    else reply.out(text)
    return 0
  },
  paint(_words, { reply }) {
    reply.out(`${reply.colors.red('red')} \u001B[2Jevil\u0007 \u202Ebidi \u001B]0;title\u0007end`)
    return 0
  },
  exit: ([code]) => Number(code),
  /** `flood OUT ERR CODE`: that many bytes on each stream at once, ending in a mark. */
  async flood([out = '0', err = '0', code = '0'], { stdout, stderr }) {
    const write = (stream: NodeJS.WritableStream, size: number, mark: string) =>
      new Promise<void>((resolve, reject) =>
        size === 0
          ? resolve()
          : stream.write(Buffer.concat([Buffer.alloc(size - mark.length, '.'), Buffer.from(mark)]), error =>
              error ? reject(error) : resolve()
            )
      )
    await Promise.all([write(stdout, Number(out), 'OUT-END'), write(stderr, Number(err), 'ERR-END')])
    return Number(code)
  },
  /** Writes until it fails, honouring backpressure; tells the parent how it ended. */
  async endless(_words, { stdout }) {
    const block = Buffer.alloc(64 * 1024, 'x')
    for (;;) {
      const error = await new Promise<Error | null | undefined>(resolve => stdout.write(block, resolve))
      if (error) {
        process.send?.({ event: 'write-failed', code: (error as NodeJS.ErrnoException).code })
        return 0
      }
    }
  },
  async count(_words, { stdin, reply }) {
    let sizeBytes = 0
    for await (const chunk of stdin as AsyncIterable<Buffer>) sizeBytes += chunk.length
    reply.out(`read ${sizeBytes}`)
    return 0
  },
  async echo(_words, { stdin, reply }) {
    const chunks: Buffer[] = []
    for await (const chunk of stdin as AsyncIterable<Buffer>) chunks.push(chunk)
    reply.out(`got ${JSON.stringify(Buffer.concat(chunks).toString())}`)
    return 0
  },
  async wait([ms = '0'], { gone, reply }) {
    process.send?.({ event: 'waiting' })
    gone.addEventListener('abort', () => process.send?.({ event: 'gone' }))
    await new Promise(resolve => setTimeout(resolve, Number(ms)))
    process.send?.({ event: 'waited' })
    reply.out('waited')
    return 0
  },
  async raw(_words, { terminal, stdin, stdout }) {
    terminal?.raw()
    for await (const chunk of stdin as AsyncIterable<Buffer>) {
      stdout.write(`<${chunk.toString('hex')}>`)
      if (chunk.includes('q')) break
    }
    return 0
  },
  async resize(_words, { terminal, reply }) {
    process.send?.({ event: 'waiting' })
    await new Promise<void>(resolve =>
      terminal?.onResize((columns, rows) => (reply.out(`${columns}x${rows}`), resolve()))
    )
    return 0
  },
  async signal(_words, { onSignal, reply }) {
    await new Promise<void>(resolve => onSignal(name => (reply.out(`signal ${name}`), resolve())))
    return 0
  },
  async progress(_words, { reply }) {
    const progress = reply.progress('copying')
    for (const fraction of [0, 0.5, 0.51, 1]) {
      progress.update('step one', fraction)
      await new Promise(resolve => setTimeout(resolve, 150))
    }
    reply.out('between')
    progress.update('step two')
    progress.done('done')
    return 0
  },
  fail() {
    throw new Error('a mistake')
  }
}

const run: RunCommand = async (split, invocation) => {
  try {
    const [verb = 'start', ...words] = split()
    process.send?.({ event: 'run', verb })
    return (await commands[verb]?.(words, invocation)) ?? 64
  } catch (error) {
    if (error instanceof Error && error.message === 'a mistake') throw error
    const failure = toUserError(error, invocation.sessionId)
    for (const line of describeError(failure)) invocation.reply.err(line)
    return failure.exitCode
  }
}

const options = JSON.parse(readFileSync(0, 'utf8')) as EndpointOptions
const database = openDatabase(`${options.directory}/berth.sqlite`)
const users = new Users(database, { from: 22000, to: 22999, exclude: [] })
const keys = new Keys(database)
for (const { name, publicKeys } of options.users) {
  const user = users.add(name)
  for (const line of publicKeys) keys.add(user, parsePublicKey(line))
}
const server = await startSshServer({
  listen: options.listen,
  nodes: ['gpu1', 'gpu2'].map(name => ({ name, managePort: 0, manageAddress: 'manage.example' }) as NodeConfig),
  hostKey: loadOrCreateHostKey(`${options.directory}/host_key`).privateKey,
  keys,
  users,
  userCas: options.userCas.map(line => parsePublicKey(line)),
  run,
  log: createLog('debug'),
  limits: options.limits
})

/** What is really held, garbage aside. */
function heldBytes(): number {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

type Request = { do: 'nothing' | 'disable' | 'end-user' | 'close'; name?: string }

// Whoever ran the test was killed.
process.on('disconnect', () => process.exit())
process.on('message', (request: Request) => {
  const user = request.name === undefined ? undefined : users.find(request.name)
  if (request.do === 'disable' && user) users.setState(user, 'disabled')
  if (request.do === 'end-user' && user) server.endUser(user.id)
  if (request.do === 'close') void server.close()
  else process.send?.({ event: 'answer', memoryBytes: heldBytes() })
})
process.send?.({ event: 'ready', ports: Object.fromEntries(server.ports) })
