import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { apiPath } from '../../src/lxd/api-path.ts'
import { LxdClient } from '../../src/lxd/client.ts'
import { exec, execCaptured } from '../../src/lxd/exec.ts'
import { createInstance, listInstances, setInstanceState } from '../../src/lxd/instances.ts'
import { operationSchema } from '../../src/lxd/operation.ts'
import { profiles } from '../../src/lxd/profiles.ts'
import { getServer } from '../../src/lxd/server.ts'
import { waitForOperation } from '../../src/lxd/wait.ts'
import { ByteProxy } from './byte-proxy.ts'
import { endpointFor, IMAGE, makeIdentity, openProject, WAYS, type TestProject } from './servers.ts'
import { later } from '../suite.ts'

/** How long a call took to fail, and with what. */
async function failure(call: Promise<unknown>): Promise<{ error: unknown; tookMs: number }> {
  const begunAtMs = performance.now()
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason
  )
  return { error, tookMs: performance.now() - begunAtMs }
}

describe.each(WAYS)('$kind over $over, its connection broken', way => {
  let project: TestProject
  let proxy: ByteProxy
  let lxd: LxdClient
  beforeAll(async () => {
    project = await openProject(way)
    await createInstance(project.lxd, { name: 'box', source: { type: 'image', alias: IMAGE } })
    await setInstanceState(project.lxd, 'box', 'start')
    proxy = await ByteProxy.open(await endpointFor(way))
    lxd = new LxdClient({ ...proxy.endpoint, project: project.name })
  })
  afterAll(async () => {
    await lxd.close()
    await proxy[Symbol.asyncDispose]()
    await project[Symbol.asyncDispose]()
  })

  const countRunning = async (pattern: string) => {
    const command = ['pgrep', '-cf', `[${pattern[0]}]${pattern.slice(1)}`]
    return Number((await execCaptured(project.lxd, 'box', { command })).stdout)
  }
  const untilRuns = (pattern: string) => expect.poll(() => countRunning(pattern)).toBe(1)

  test('while an operation runs: it is waited for all the same', async () => {
    const json = { command: ['sleep', '1.5'], 'wait-for-websocket': false, interactive: false }
    const begun = await lxd.begin('POST', apiPath`/1.0/instances/${'box'}/exec`, { json })
    const cutting = setInterval(() => proxy.cut(), 150)
    const { error, tookMs } = await failure(waitForOperation(lxd, begun as NonNullable<typeof begun>))
    clearInterval(cutting)
    expect(error).toBeUndefined()
    expect(tookMs).toBeGreaterThan(1000)
  })

  test('while a program runs: the call ends and so does the program', async () => {
    const running = later(execCaptured(lxd, 'box', { command: ['sleep', '411'] }))
    await untilRuns('sleep 411')
    proxy.cut()
    expect((await running).exitCode).toBe(137)
    await expect.poll(() => countRunning('sleep 411')).toBe(0)
  })

  test('for a moment while a program is left: aborting never hangs', async () => {
    const leaving = new AbortController()
    const running = later(exec(lxd, 'box', { command: ['sleep', '412'], signal: leaving.signal }))
    await untilRuns('sleep 412')
    proxy.stalled = true
    leaving.abort(new Error('gone'))
    const { error, tookMs } = await failure(running)
    proxy.stalled = false
    proxy.cut()
    expect(error).toMatchObject({ message: 'gone' })
    expect(tookMs).toBeLessThan(3000)
  })

  test('by a server that takes the call and says nothing: our time limit ends it', async () => {
    proxy.stalled = true
    const { error } = await failure(listInstances(lxd, { timeoutMs: 400 }))
    proxy.stalled = false
    proxy.cut()
    expect(error).toMatchObject({ fault: way.over === 'unix' ? 'timed-out' : expect.any(String), status: 0 })
    expect(await listInstances(lxd)).toHaveLength(1)
  })

  test('an operation is cancelled when asked for, and only then', async () => {
    const begin = async () => {
      const json = { type: 'client', name: 'cancelled', token: true }
      const begun = await lxd.begin('POST', apiPath`/1.0/certificates`, { json })
      return begun as NonNullable<typeof begun>
    }
    const [left, cancelled] = [await begin(), await begin()]
    await expect(waitForOperation(lxd, left, { timeoutMs: 100 })).rejects.toMatchObject({ fault: 'timed-out' })
    const wait = waitForOperation(lxd, cancelled, { timeoutMs: 100, cancelOnAbort: true })
    await expect(wait).rejects.toMatchObject({ fault: 'timed-out' })
    const statusOf = async (id: string) =>
      (await lxd.find(apiPath`/1.0/operations/${id}`, operationSchema))?.status_code ?? 404
    expect(await statusOf(left.id)).toBe(103)
    expect([401, 404]).toContain(await statusOf(cancelled.id))
    await lxd.operate('DELETE', apiPath`/1.0/operations/${left.id}`)
  })

  test('for good while an operation runs: its end is lost, and soon known to be', async () => {
    await using leaving = await ByteProxy.open(await endpointFor(way))
    const client = new LxdClient({ ...leaving.endpoint, project: project.name })
    const running = later(exec(client, 'box', { command: ['sleep', '413'] }))
    await untilRuns('sleep 413')
    leaving.vanish()
    const { error, tookMs } = await failure(running)
    expect(error).toMatchObject({ fault: 'lost', operation: expect.stringMatching(/-/) })
    expect(tookMs).toBeLessThan(6000)
    const next = await failure(getServer(client))
    expect(next.error).toMatchObject({ fault: 'unreachable', status: 0 })
    expect(next.tookMs).toBeLessThan(3000)
    await client.close()
  })
})

describe('over the socket, where requests can be counted', () => {
  let project: TestProject
  let proxy: ByteProxy
  let lxd: LxdClient
  beforeAll(async () => {
    project = await openProject({ kind: 'lxd', over: 'unix' })
    proxy = await ByteProxy.open(await endpointFor({ kind: 'lxd', over: 'unix' }))
    lxd = new LxdClient({ ...proxy.endpoint, project: project.name })
  })
  afterAll(async () => {
    await lxd.close()
    await proxy[Symbol.asyncDispose]()
    await project[Symbol.asyncDispose]()
  })
  const cutAt = (start: string, times: number) => {
    let left = times
    proxy.requests.length = 0
    proxy.onRequest = text => {
      if (text.startsWith(start) && left-- > 0) setImmediate(() => proxy.cut())
    }
  }
  const count = (start: string) => proxy.requests.filter(request => request.startsWith(start)).length

  test('a read is repeated, and given up after the third time', async () => {
    cutAt('GET /1.0/instances?', 2)
    expect(await listInstances(lxd)).toEqual([])
    expect(count('GET /1.0/instances?')).toBe(3)
    cutAt('GET /1.0/instances?', 10)
    await expect(listInstances(lxd)).rejects.toMatchObject({ fault: 'lost', status: 0 })
    expect(count('GET /1.0/instances?')).toBe(3)
  })

  test('a change is never repeated', async () => {
    cutAt('POST /1.0/profiles', 10)
    const creating = profiles.create(lxd, { name: 'once', config: {}, devices: {} })
    await expect(creating).rejects.toMatchObject({ fault: 'lost', status: 0 })
    expect(count('POST /1.0/profiles')).toBe(1)
    cutAt('DELETE /1.0/profiles', 10)
    await expect(profiles.remove(lxd, 'once')).rejects.toMatchObject({ fault: 'lost' })
    expect(count('DELETE /1.0/profiles')).toBe(1)
    await profiles.remove(project.lxd, 'once').catch((error: unknown) => expect(error).toMatchObject({ status: 404 }))
  })
})

describe('a server that is not there is reported within three seconds', () => {
  const expectUnreachable = async (lxd: LxdClient) => {
    const { error, tookMs } = await failure(getServer(lxd))
    expect(error).toMatchObject({ name: 'LxdError', fault: 'unreachable', status: 0 })
    expect(tookMs).toBeLessThan(3000)
    const socket = await failure(lxd.openWebSocket(apiPath`/1.0/events`))
    expect(socket.error).toMatchObject({ name: 'LxdError', fault: 'unreachable', status: 0 })
    await lxd.close()
  }

  test('no socket', () => expectUnreachable(new LxdClient({ url: 'unix:///nonexistent/unix.socket' })))

  test('a port nobody listens on, and one that never says a word', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    const identity = await makeIdentity()
    const tls = { ...identity, serverCertificate: identity.cert }
    await expectUnreachable(new LxdClient({ url: `https://127.0.0.1:${port}`, tls }))
    silent.close()
    await expectUnreachable(new LxdClient({ url: `https://127.0.0.1:${port}`, tls }))
  })
})
