import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

let collect: ((options: { type: 'minor' | 'major' }) => void) | undefined
let leastBytes = Infinity
/** Buffers that were in use during two collections count as old, and only a large one, of some 20 ms, frees them. */
const OLD_BYTES = 16 * 2 ** 20

/**
 * Frees at once what a stream of large buffers has left behind, mostly in about a millisecond. V8 counts memory outside of its heap in
 * steps of 64 MiB before it looks by itself: measured, 100 MiB more at the peak of one archive.
 */
export function collectBuffers(): void {
  if (!collect) {
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as NonNullable<typeof collect>
  }
  collect({ type: 'minor' })
  const { external } = process.memoryUsage()
  leastBytes = Math.min(leastBytes, external)
  if (external > leastBytes + OLD_BYTES) collect({ type: 'major' })
}
