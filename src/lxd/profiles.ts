import { z } from 'zod'
import { configMap, deviceMap, listOf, text, type ConfigMap, type DeviceMap } from './answer.ts'
import { apiPath } from './api-path.ts'
import { collectionAt } from './collection.ts'

const profileSchema = z.looseObject({
  name: z.string(),
  description: text,
  config: configMap,
  devices: deviceMap,
  used_by: listOf(z.string())
})

export interface ProfilePut {
  readonly description?: string
  readonly config: ConfigMap
  readonly devices: DeviceMap
}

/** /1.0/profiles of the client's project. An update reaches every instance that has the profile. */
export const profiles = collectionAt<typeof profileSchema, ProfilePut>(apiPath`/1.0/profiles`, profileSchema)
