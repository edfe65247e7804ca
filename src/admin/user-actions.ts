import { z } from 'zod'
import type { App } from '../app.ts'
import { keyEntry } from '../command/describe-keys.ts'
import type { ContainerStatus } from '../containers/container-status.ts'
import { parsePublicKey } from '../directory/public-key.ts'
import type { User } from '../directory/users.ts'
import { UserError } from '../errors.ts'
import { defineAction } from './action.ts'

const named = z.strictObject({ name: z.string() })

export const addUser = defineAction(
  'user.add',
  z.strictObject({ name: z.string(), keys: z.array(z.string()), port: z.int().optional() }),
  (app, { name, keys, port }) => {
    const parsed = keys.map(parsePublicKey)
    // All or nothing: a key that belongs to somebody else must not leave half a user behind.
    return app.database
      .transaction(() => {
        const user = app.users.add(name, { port })
        return { ...user, keys: parsed.map(key => keyEntry(app.keys.add(user, key))) }
      })
      .immediate()
  }
)

export const listUsers = defineAction(
  'user.list',
  z.strictObject({}),
  app =>
    app.users.list().map(user => ({
      ...user,
      keys: app.keys.listFor(user).length,
      nodes: app.containers.nodesOf(user)
    })),
  { readOnly: true }
)

/** A user's container on one node as it is, or why that cannot be told. */
export interface ContainerEntry {
  node: string
  status?: ContainerStatus
  fault?: string
}

async function describeContainers(app: App, user: User): Promise<ContainerEntry[]> {
  const entries = [...app.config.nodes.values()].map(async (node): Promise<ContainerEntry | undefined> => {
    try {
      return { node: node.name, status: await app.containers.status(user, node) }
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      return error.reason === 'not-registered' ? undefined : { node: node.name, fault: error.message }
    }
  })
  return (await Promise.all(entries)).filter(entry => entry !== undefined)
}

export const showUser = defineAction(
  'user.show',
  named,
  async (app, { name }) => {
    const user = app.users.need(name)
    const keys = app.keys.listFor(user).map(keyEntry)
    const snapshots = app.snapshots.records.listFor(user).map(({ name, sizeBytes }) => ({ name, sizeBytes }))
    return { ...user, keys, containers: await describeContainers(app, user), snapshots }
  },
  { readOnly: true }
)

export const linkUser = defineAction('user.link', named, (app, { name }) => app.links.create(app.users.need(name)))

export const disableUser = defineAction(
  'user.disable',
  z.strictObject({ name: z.string(), keepRunning: z.boolean() }),
  (app, { name, keepRunning }, report) => app.members.disable(app.users.need(name), { keepRunning }, report)
)

export const enableUser = defineAction('user.enable', named, (app, { name }, report) =>
  app.members.enable(app.users.need(name), report)
)

export const removeUser = defineAction('user.remove', named, (app, { name }, report) =>
  app.members.remove(app.users.need(name), report)
)

export const userActions = [addUser, listUsers, showUser, linkUser, disableUser, enableUser, removeUser]
