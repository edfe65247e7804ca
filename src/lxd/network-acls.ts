import { z } from 'zod'
import { listOf, text } from './answer.ts'
import { apiPath } from './api-path.ts'
import { collectionAt } from './collection.ts'

const ruleSchema = z.looseObject({
  action: z.enum(['allow', 'allow-stateless', 'reject', 'drop']),
  state: z.enum(['enabled', 'disabled', 'logged']),
  description: z.string().optional(),
  source: z.string().optional(),
  destination: z.string().optional(),
  protocol: z.string().optional(),
  source_port: z.string().optional(),
  destination_port: z.string().optional(),
  icmp_type: z.string().optional(),
  icmp_code: z.string().optional()
})
/** A field left out matches everything. LXD applies drop, reject and allow rules in that order, whatever the order written. */
export type AclRule = z.output<typeof ruleSchema>

const aclSchema = z.looseObject({
  name: z.string(),
  description: text,
  egress: listOf(ruleSchema),
  ingress: listOf(ruleSchema),
  used_by: listOf(z.string())
})

export interface AclPut {
  readonly description?: string
  readonly egress: readonly AclRule[]
  readonly ingress: readonly AclRule[]
}

/** /1.0/network-acls. An update takes effect at once wherever the list is in use. */
export const networkAcls = collectionAt<typeof aclSchema, AclPut>(apiPath`/1.0/network-acls`, aclSchema)
