import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'
import type { LxdClient } from '../lxd/client.ts'
import { createInstance, getInstance, updateInstance } from '../lxd/instances.ts'
import type { WaitOptions } from '../lxd/wait.ts'

/**
 * Copies the member's container, stopped or running, to `name`: its files and nothing of its place in the world. The copy has no
 * profile, network, forward, mount or GPU, so that it is in nobody's way and its archive names none of them.
 * @throws LxdError
 */
export async function copyContainer(
  lxd: LxdClient,
  user: User,
  node: NodeConfig,
  name: string,
  options: WaitOptions
): Promise<void> {
  const original = await getInstance(lxd, user.name)
  const root = { type: 'disk', path: '/', pool: node.storagePool }
  // A copy gets every device of the original's own: what is not replaced here would clash with the original's.
  const silenced = Object.fromEntries(Object.keys(original.devices).map(device => [device, { type: 'none' }]))
  await createInstance(
    lxd,
    {
      name,
      description: `berth: ${user.name}, to be archived`,
      source: { type: 'copy', source: user.name, instance_only: true },
      profiles: [],
      devices: { ...silenced, root }
    },
    options
  )
  const { architecture, config, ephemeral, description, etag } = await getInstance(lxd, name)
  await updateInstance(
    lxd,
    name,
    { architecture, config, ephemeral, description, profiles: [], devices: { root } },
    etag
  )
}
