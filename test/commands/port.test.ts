import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startRig, type Member, type Rig } from '../rig.ts'
import { itLong, LONG } from '../suite.ts'

/** What a TCP port greets with; undefined when nothing is reached there. */
async function greeting(host: string, port: number): Promise<string | undefined> {
  const socket = connect({ host, port })
  try {
    const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(3000) })) as [Buffer]
    return chunk.toString()
  } catch {
    return undefined
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}

describe.each(LONG ? (['nat', 'proxy'] as const) : (['nat'] as const))('extra ports, %s', forwarding => {
  let rig: Rig
  let alice: Member
  // Of the one server that all rigs share: other test files open no extra ports in this range.
  const from = forwarding === 'nat' ? 11_100 : 11_200
  const reached = (port: number) => greeting(rig.lab.nodeAddress, port)
  /** A machine that is busy with other tests may take its time to greet. */
  const becomesReached = (port: number) => expect.poll(() => reached(port), { timeout: 15_000 }).toMatch(/^SSH-2/)
  const listed = async () =>
    JSON.parse((await alice.manage('port --json')).stdout) as { containerPort: number; nodePort: number }[]

  beforeAll(async () => {
    rig = await startRig({
      node: { forwarding },
      config: { forwardPorts: { from, to: from + 11, exclude: [from + 1] } }
    })
    alice = await rig.addRunningMember('alice')
    // A second SSH server stands for whatever a member may run.
    expect(await alice.login('sudo /usr/sbin/sshd -p 8888')).toMatchObject({ code: 0 })
  })
  afterAll(() => rig[Symbol.asyncDispose]())

  it('lists none, and says how to open one', async () => {
    expect(await alice.manage('port')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('gpu1-manage port 8888') as string
    })
    expect(await listed()).toEqual([])
  })

  it('opens one in the running container, and says so again', async () => {
    const opened = await alice.manage('port 8888')
    expect(opened).toMatchObject({ code: 0, stderr: '' })
    expect(opened.stdout).toContain(`Open: ${rig.lab.nodeAddress}:${from} leads to port 8888`)
    await becomesReached(from)
    expect((await alice.manage('port open 8888')).stdout).toContain(`Open already: ${rig.lab.nodeAddress}:${from}`)
    expect(await listed()).toMatchObject([{ containerPort: 8888, nodePort: from }])
    expect((await alice.manage('status')).stdout).toContain(`${rig.lab.nodeAddress}:${from} → 8888`)
  })

  it('passes over a port that is excluded and one that a program on the node has', async () => {
    const [tool, ...words] = [...rig.lab.enter, 'nc', '-lk', rig.lab.nodeAddress, String(from + 2)]
    const program = spawn(tool, words, { stdio: 'ignore' })
    try {
      await expect.poll(async () => await connects(rig.lab.nodeAddress, from + 2)).toBe(true)
      expect(await alice.manage('port 9999')).toMatchObject({ code: 0 })
      expect(await listed()).toContainEqual(expect.objectContaining({ containerPort: 9999, nodePort: from + 3 }))
    } finally {
      program.kill('SIGKILL')
    }
  })

  it('keeps it through a stop, and opens and closes while stopped', async () => {
    await alice.manage('stop --timeout 0')
    expect(await reached(from)).toBeUndefined()
    expect(await alice.manage('port 22')).toMatchObject({ code: 0 })
    expect(await alice.manage('port close 9999')).toMatchObject({ code: 0 })
    const started = await alice.manage('start')
    expect(started, started.stderr).toMatchObject({ code: 0 })
    expect(await alice.login('sudo /usr/sbin/sshd -p 8888')).toMatchObject({ code: 0 })
    await becomesReached(from)
    const [second] = (await listed()).filter(({ containerPort }) => containerPort === 22)
    await becomesReached(second?.nodePort ?? 0)
    expect((await listed()).map(({ containerPort }) => containerPort)).toEqual([22, 8888])
  })

  itLong('closes it for a disabled member, and gives it back', async () => {
    expect(await rig.berth('user', 'disable', 'alice', '--keep-running')).toMatchObject({ code: 0 })
    expect(await reached(from)).toBeUndefined()
    expect(await rig.berth('user', 'enable', 'alice')).toMatchObject({ code: 0 })
    await becomesReached(from)
  })

  it('closes it at once, and frees the port for the next', async () => {
    expect(await alice.manage('port close 8888')).toMatchObject({ code: 0 })
    expect(await reached(from)).toBeUndefined()
    expect(await alice.manage('port close 8888')).toMatchObject({ code: 64 })
    expect(await alice.manage('port 8888 --json')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining(`${from}`) as string
    })
    await becomesReached(from)
  })

  it.each(['port 0', 'port 65536', 'port eighty', 'port close', 'port open x', 'port list 5', 'port -1'])(
    'refuses `%s`',
    async words => expect(await alice.manage(words)).toMatchObject({ code: 64, stdout: '' })
  )

  itLong('gives ten at most', async () => {
    const before = (await listed()).length
    for (let port = 1000; port < 1010 - before; port++)
      expect(await alice.manage(`port ${port}`)).toMatchObject({ code: 0 })
    expect(await alice.manage('port 2000')).toMatchObject({
      code: 77,
      stderr: expect.stringContaining('port close') as string
    })
    expect(await listed()).toHaveLength(10)
  })
})

async function connects(host: string, port: number): Promise<boolean> {
  const socket = connect({ host, port })
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(3000) })
    return true
  } catch {
    return false
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}
