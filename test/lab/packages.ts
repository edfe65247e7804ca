import { access, chmod, rm, writeFile } from 'node:fs/promises'
import { run, takeLock, tryRun } from './run.ts'

const packages = [
  'btrfs-progs',
  'ca-certificates',
  'debootstrap',
  'dnsmasq-base',
  'iproute2',
  'lxd',
  'lxd-client',
  'nftables',
  'openssh-client',
  'openssl',
  'rsync',
  'squashfs-tools',
  'uidmap',
  'util-linux',
  'zstd'
]

const policyFile = '/usr/sbin/policy-rc.d'

/** Installs the Debian packages the lab needs and this machine lacks; gives their names. No service is started by that. */
export async function installPackages(): Promise<string[]> {
  await using _lock = await takeLock('/run/lock/berth-lab-packages')
  const missing: string[] = []
  for (const name of packages) {
    const status = await tryRun('dpkg-query', '--show', '--showformat=${db:Status-Status}', name)
    if (status !== 'installed') missing.push(name)
  }
  if (missing.length === 0) return []
  await using _policy = await refuseServiceStarts()
  const install = ['install', '--yes', '--no-install-recommends', ...missing]
  if ((await tryRun('apt-get', ...install)) === undefined) {
    await run('apt-get', 'update')
    await run('apt-get', ...install)
  }
  return missing
}

/** policy-rc.d (Debian's invoke-rc.d) says 101, "forbidden", to every package's wish to start its service, LXD's above all. */
async function refuseServiceStarts(): Promise<AsyncDisposable> {
  const exists = await access(policyFile).then(
    () => true,
    () => false
  )
  if (exists) return { async [Symbol.asyncDispose]() {} }
  await writeFile(policyFile, '#!/bin/sh\nexit 101\n')
  await chmod(policyFile, 0o755)
  return {
    async [Symbol.asyncDispose]() {
      await rm(policyFile, { force: true })
    }
  }
}
