import { access, constants } from 'node:fs/promises'
import { listCgroupMounts } from './cgroups.ts'
import { tryRun } from './run.ts'
import { ELSEWHERE, UnfitMachine } from './unfit-machine.ts'

/** Looks before the long work for what only the machine itself can give. @throws UnfitMachine */
export async function checkMachine(): Promise<void> {
  if (process.getuid?.() !== 0) throw new UnfitMachine('A lab is a real LXD, which takes root: use sudo.')
  if ((await tryRun('apt-get', '--version')) === undefined)
    throw new UnfitMachine(
      `A lab installs Debian packages, and there is no apt-get here: ${ELSEWHERE}, with Debian 12 or later.`
    )
  if ((await tryRun('unshare', '--mount', '--net', '--pid', '--fork', '--mount-proc', 'true')) === undefined)
    throw new UnfitMachine(`This machine refuses the namespaces that LXD needs: ${ELSEWHERE}.`)
  const mounts = await listCgroupMounts()
  if (mounts.length === 0)
    throw new UnfitMachine(
      `No cgroups are mounted here, and LXD needs them: mount -t cgroup2 cgroup2 /sys/fs/cgroup; or ${ELSEWHERE}.`
    )
  for (const { mountPoint } of mounts) {
    await access(mountPoint, constants.W_OK).catch(() => {
      throw new UnfitMachine(`${mountPoint} cannot be written, and LXD needs cgroups of its own: ${ELSEWHERE}.`)
    })
  }
}
