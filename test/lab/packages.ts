import { chmod, readFile, rm, writeFile } from 'node:fs/promises'
import { run, takeLock, tryRun } from './run.ts'
import { UnfitMachine } from './unfit-machine.ts'

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

/** Installs the Debian packages the lab needs, and `also` others, where this machine lacks them. No service is started by that. */
export async function installPackages(say: (line: string) => void, also: readonly string[] = []): Promise<void> {
  await using _lock = await takeLock('/run/lock/berth-lab-packages')
  const known = await run('dpkg-query', '--show', '--showformat=${Package} ${db:Status-Status}\\n')
  const installed = new Set(known.split('\n').filter(line => line.endsWith(' installed')))
  const missing = [...packages, ...also].filter(name => !installed.has(`${name} installed`))
  if (missing.length > 0) {
    say(`installing ${missing.join(', ')}`)
    await using _policy = await refuseServiceStarts()
    const install = ['install', '-o', 'DPkg::Lock::Timeout=300', '--yes', '--no-install-recommends', ...missing]
    if ((await tryRun('apt-get', ...install)) === undefined) {
      const ran = run('apt-get', 'update').then(() => run('apt-get', ...install))
      await ran.catch(({ stderr }: { stderr: string }) => {
        throw new UnfitMachine(`These packages could not be installed: ${missing.join(', ')}.\n${stderr.trim()}`)
      })
    }
  }
  await raiseInotifyLimits()
}

const marker = '# while a test lab installs its packages'

/** policy-rc.d (Debian's invoke-rc.d) says 101, "forbidden", to every package's wish to start its service, LXD's above all. */
async function refuseServiceStarts(): Promise<AsyncDisposable> {
  const present = await readFile(policyFile, 'utf8').catch(() => marker)
  if (!present.includes(marker)) return { async [Symbol.asyncDispose]() {} }
  await writeFile(policyFile, `#!/bin/sh\n${marker}\nexit 101\n`)
  await chmod(policyFile, 0o755)
  return {
    async [Symbol.asyncDispose]() {
      await rm(policyFile, { force: true })
    }
  }
}

/** What the package's own sysctl file gives at the next boot, given now: with 128 instances about ten containers start. */
async function raiseInotifyLimits(): Promise<void> {
  for (const line of (await readFile('/etc/sysctl.d/10-lxd-inotify.conf', 'utf8')).split('\n')) {
    const [, name, value] = /^(fs\.inotify\.\w+)\s*=\s*(\d+)/.exec(line) ?? []
    if (name === undefined) continue
    const path = `/proc/sys/${name.replaceAll('.', '/')}`
    if (Number(await readFile(path, 'utf8')) < Number(value)) await writeFile(path, value!)
  }
}
