import { z } from 'zod'
import type { App } from '../app.ts'
import { formatBytes } from '../command/units.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import type { SnapshotRecord } from '../snapshots/snapshot-records.ts'
import { defineAction } from './action.ts'
import { type AdminGroup, defineCommand, jsonOption } from './admin-command.ts'
import { formatTime } from './console.ts'

const ofUser = z.strictObject({ user: z.string().optional() })

const usersOf = (app: App, name: string | undefined): User[] =>
  name === undefined ? app.users.list() : [app.users.need(name)]

const entry = (user: User, { userId: _id, ...record }: SnapshotRecord) => ({ user: user.name, ...record })

const listSnapshots = defineAction(
  'snapshot.list',
  ofUser,
  (app, { user: name }) =>
    usersOf(app, name).flatMap(user => app.snapshots.records.listFor(user).map(record => entry(user, record))),
  { readOnly: true }
)

export interface Verified {
  user: string
  name: string
  /** Undefined: the file holds the bytes it was written with. */
  fault?: string
}

const verifySnapshots = defineAction(
  'snapshot.verify',
  ofUser,
  async (app, { user: name }, report) => {
    const { records, directory } = app.snapshots
    const verified: Verified[] = []
    await directory.check()
    for (const user of usersOf(app, name)) {
      const listed = records.listFor(user)
      for (const record of listed) {
        const fault = await app.snapshots.verify(user, record, report).catch(toFault)
        verified.push({ user: user.name, name: record.name, ...(fault !== undefined && { fault }) })
      }
      for (const file of await directory.list(user.name)) {
        if (file.startsWith('.partial-') || listed.some(record => record.name === file)) continue
        verified.push({ user: user.name, name: file, fault: 'no snapshot of that name is known: put there by others' })
      }
    }
    return verified
  },
  { readOnly: true }
)

function toFault(error: unknown): string {
  if (error instanceof UserError) return error.message
  throw error
}

const pruneSnapshots = defineAction('snapshot.prune', ofUser, async (app, { user: name }, report) => {
  const removed: ReturnType<typeof entry>[] = []
  const users = usersOf(app, name)
  for (const user of users) {
    report(`looking at ${user.name}'s`)
    removed.push(...(await app.snapshots.prune(user)).map(record => entry(user, record)))
  }
  await app.snapshots.removeStrays(users)
  return removed
})

export const snapshotActions = [listSnapshots, verifySnapshots, pruneSnapshots]

const userOption = { type: 'string', requiresArg: true, describe: 'this user alone' } as const

const list = defineCommand({
  command: 'list',
  describe: 'all archives, newest first',
  builder: yargs => yargs.option('user', userOption).option('json', jsonOption),
  async handler({ user, json }, { console, perform }) {
    const snapshots = await perform(listSnapshots, { user })
    if (json) return console.json(snapshots)
    if (snapshots.length === 0) return console.out('There are no snapshots.')
    console.table(
      ['USER', 'NAME', 'NODE', 'SIZE', 'TAKEN', 'TEMPLATE', 'NOTE'],
      snapshots.map(snapshot => [
        snapshot.user,
        snapshot.name,
        snapshot.node,
        formatBytes(snapshot.sizeBytes),
        formatTime(snapshot.createdAtMs),
        snapshot.template,
        snapshot.note + (snapshot.scheduled ? ' (scheduled)' : '')
      ])
    )
    console.out(formatBytes(snapshots.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)))
  }
})

const verify = defineCommand({
  command: 'verify',
  describe: 'read every archive again and compare it with what was written',
  epilogue: 'Exit code 1 if any is damaged or gone, or if there is a file that is none of them.',
  builder: yargs => yargs.option('user', userOption).option('json', jsonOption),
  async handler({ user, json }, { console, perform }) {
    const verified = await perform(verifySnapshots, { user })
    const faults = verified.filter(({ fault }) => fault !== undefined).length
    if (json) console.json(verified)
    else {
      for (const { user: owner, name, fault } of verified)
        console.out(
          `${fault === undefined ? 'whole ' : 'FAULT '} ${owner}/${name}${fault === undefined ? '' : `: ${fault}`}`
        )
      console.out(`${verified.length - faults} whole, ${faults} faults.`)
    }
    return faults === 0 ? 0 : 1
  }
})

const prune = defineCommand({
  command: 'prune',
  describe: 'delete the scheduled archives whose time is over, and partial files',
  epilogue:
    'As berth does after each scheduled snapshot, by snapshots.keepDaily and keepWeekly. What members took themselves stays.',
  builder: yargs => yargs.option('user', userOption).option('json', jsonOption),
  async handler({ user, json }, { console, perform }) {
    const removed = await perform(pruneSnapshots, { user })
    if (json) return console.json(removed)
    for (const { user: owner, name, sizeBytes } of removed)
      console.out(`Deleted ${owner}/${name}, ${formatBytes(sizeBytes)}.`)
    if (removed.length === 0) console.out('Nothing is due.')
  }
})

export const snapshot: AdminGroup = {
  command: 'snapshot',
  describe: 'the archives of the containers',
  commands: [list, verify, prune]
}
