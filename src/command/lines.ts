import type { NodeConfig } from '../config.ts'
import type { User } from '../directory/users.ts'

/** The lines berth asks people to type. With the aliases of the generated ~/.ssh/config unless said otherwise. */

export const manageLine = (node: NodeConfig, words = ''): string => `ssh ${node.name}-manage${words && ` ${words}`}`

export const loginLine = (node: NodeConfig): string => `ssh ${node.name}`

/** Makes the member's container on the node. */
export const registerLine = (node: NodeConfig, { name }: User): string => `ssh register@${node.name}-manage ${name}`

/** Works before the member has the generated config. */
export const plainManageLine = (node: NodeConfig, login: string, words: string): string =>
  `ssh -p ${node.managePort} ${login}@${node.manageAddress} ${words}`

export const plainLoginLine = (node: NodeConfig, user: User): string =>
  `ssh -p ${user.fixedPort} ${user.name}@${node.address}`

/** Enrols the key that the client proves, with a one-time code. */
export const enrolLine = (node: NodeConfig, name: string, code: string): string =>
  `ssh -p ${node.managePort} -i ~/.ssh/id_ed25519 -o IdentitiesOnly=yes enroll@${node.manageAddress} ${name} ${code}`
