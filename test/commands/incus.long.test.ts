import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startRig, type Member, type Rig } from '../rig.ts'

let rig: Rig
let alice: Member
let nas: string

beforeAll(async () => {
  nas = mkdtempSync(join(tmpdir(), 'berth-nas-'))
  rig = await startRig({ server: 'incus', config: { snapshots: { dir: nas } } })
  alice = await rig.addMember('alice')
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  rmSync(nas, { recursive: true })
})

async function manage(words: string): Promise<string> {
  const ran = await alice.manage(words)
  expect(ran.code, ran.stderr).toBe(0)
  return ran.stdout
}

/** Types the line that the command without a token prints. */
async function confirm(words: string, rest = ''): Promise<string> {
  const token = /\b[0-9A-HJKMNP-TV-Z]{26}\b/.exec(await manage(words))?.[0] ?? 'NONE'
  return manage(`${words} ${token} ${rest}`)
}

it('a member of a node with Incus registers, works, saves the container and gets it back', async () => {
  const registered = await alice.register()
  expect(registered.code, registered.stderr).toBe(0)
  expect(await alice.login('id -un; sudo id -u; echo mine >kept')).toMatchObject({ code: 0, stdout: 'alice\n0\n' })
  await manage('stop --timeout 5')
  const archive = /\S+\.tar\.zst/.exec(await confirm('snapshot'))?.[0] as string
  await manage('start')
  expect(await alice.login('echo lost >kept')).toMatchObject({ code: 0 })
  await manage('stop --timeout 5')
  await confirm('recover', archive)
  await manage('start')
  expect(await alice.login('cat kept')).toEqual({ code: 0, stdout: 'mine\n', stderr: '' })
})
