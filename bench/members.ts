import type { Member, Rig } from '../test/rig.ts'
import { must } from './bench.ts'

const known = new WeakMap<Rig, Member[]>()

/** The first `count` members of a rig, each with a running container. */
export async function members(rig: Rig, count: number): Promise<Member[]> {
  const list = known.get(rig) ?? []
  known.set(rig, list)
  while (list.length < count) {
    const member = await rig.addMember(`member-${list.length}`)
    must(await member.register())
    await member.fetchConfig()
    list.push(member)
  }
  for (const member of list.slice(0, count)) must(await member.manage())
  return list.slice(0, count)
}
