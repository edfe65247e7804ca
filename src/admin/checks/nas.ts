import { fork } from 'node:child_process'
import type { Config, NodeConfig } from '../../config.ts'
import { fault, type Finding } from './finding.ts'

const MAIN = new URL('./nas-process.ts', import.meta.url)
const PATIENCE_MS = 10_000

/**
 * Looks at a node's mounts, or at `snapshots.dir`, in a process of its own: one that waits for a NAS can be neither hurried nor
 * killed, and doctor must end.
 */
export function checkNas({ path }: Config, node?: NodeConfig): Promise<Finding[]> {
  const check = node ? 'mounts' : 'snapshots'
  const child = fork(MAIN, [path, ...(node ? [node.name] : [])], {
    execArgv: [],
    stdio: ['ignore', 'ignore', 'ignore', 'ipc']
  })
  return new Promise<Finding[]>(resolve => {
    const end = (found: Finding[]) => {
      clearTimeout(timer)
      resolve(found)
    }
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      child.unref()
      child.disconnect()
      const who = node ? 'the file server, or the DNS for its name,' : 'the file server'
      const text = `${who} has not answered for ${PATIENCE_MS / 1000} s`
      end([
        fault(check, text, 'findmnt -t nfs,nfs4,cifs,fuse; then see to the file server, or: umount -f -l DIRECTORY')
      ])
    }, PATIENCE_MS)
    child.once('message', found => end(found as Finding[]))
    const failed = () => end([fault(check, 'could not be looked at', 'berth doctor')])
    child.once('exit', failed).once('error', failed)
  })
}
