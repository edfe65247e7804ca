import { z } from 'zod'
import { listOf, text } from './answer.ts'
import { apiPath } from './api-path.ts'
import type { CallOptions, LxdClient } from './client.ts'

const cardSchema = z
  .looseObject({
    driver: text,
    driver_version: text,
    pci_address: text,
    vendor: text,
    vendor_id: text,
    product: text,
    product_id: text,
    drm: z.looseObject({ id: z.number().optional() }).nullish(),
    nvidia: z.looseObject({ model: text, uuid: text, nvrm_version: text, cuda_version: text }).nullish()
  })
  .transform(card => ({
    pciAddress: card.pci_address,
    vendor: card.vendor,
    vendorId: card.vendor_id,
    product: card.nvidia?.model || card.product,
    driver: card.driver,
    driverVersion: card.nvidia?.nvrm_version || card.driver_version,
    cudaVersion: card.nvidia?.cuda_version || undefined
  }))

/** A graphics card of the host, whether or not a driver holds it. */
export type GpuCard = z.output<typeof cardSchema>

const resourcesSchema = z
  .looseObject({
    cpu: z.looseObject({ total: z.number().default(0) }).prefault({}),
    memory: z.looseObject({ total: z.number().default(0), used: z.number().default(0) }).prefault({}),
    gpu: z.looseObject({ cards: listOf(cardSchema) }).prefault({ cards: [] }),
    load: z.looseObject({ Average1Min: z.number() }).nullish()
  })
  .transform(({ cpu, memory, gpu, load }) => ({
    /** Hardware threads. */
    cpus: cpu.total,
    memoryBytes: memory.total,
    usedMemoryBytes: memory.used,
    gpus: gpu.cards,
    /** Of the last minute (getloadavg(3)); newer servers only. */
    loadAverage: load?.Average1Min
  }))
export type Resources = z.output<typeof resourcesSchema>

/** GET /1.0/resources, of the client's cluster member. */
export function getResources(lxd: LxdClient, options?: CallOptions): Promise<Resources> {
  return lxd.get(apiPath`/1.0/resources`, resourcesSchema, { ...options, query: { target: lxd.target } })
}
