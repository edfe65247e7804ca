import { z } from 'zod'
import { configMap, listOf, text, type ConfigMap } from './answer.ts'
import { apiPath } from './api-path.ts'
import { collectionAt } from './collection.ts'

const projectSchema = z.looseObject({
  name: z.string(),
  description: text,
  config: configMap,
  used_by: listOf(z.string())
})

export interface ProjectPut {
  readonly description?: string
  readonly config: ConfigMap
}

/** /1.0/projects */
export const projects = collectionAt<typeof projectSchema, ProjectPut>(apiPath`/1.0/projects`, projectSchema)
