import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

let collect: ((options: { type: 'minor' }) => void) | undefined

/**
 * Frees at once what a stream of large buffers has left behind, in about a millisecond. V8 counts memory outside of its heap in
 * steps of 64 MiB before it looks by itself: measured, 100 MiB more at the peak of one archive.
 */
export function collectYoung(): void {
  if (!collect) {
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as NonNullable<typeof collect>
  }
  collect({ type: 'minor' })
}
