import { parseArgs } from 'node:util'
import { downLab, listLabs, upLab } from './lab.ts'
import { UnfitMachine } from './unfit-machine.ts'

const usage = `usage: node test/lab/main.ts up [--name NAME] [--images NAME,…] [--incus] [--no-lxd] [--pool btrfs|dir] [--json]
       node test/lab/main.ts down [--name NAME]
       node test/lab/main.ts list [--json]`

const { positionals, values } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    name: { type: 'string', default: 'default' },
    images: { type: 'string', default: 'debian-12' },
    lxd: { type: 'boolean', default: true },
    incus: { type: 'boolean', default: false },
    pool: { type: 'string', default: 'btrfs' },
    json: { type: 'boolean', default: false }
  }
})

const say = (line: string) => process.stderr.write(`lab: ${line}\n`)

switch (positionals.join(' ')) {
  case 'up': {
    if (values.pool !== 'btrfs' && values.pool !== 'dir') throw new Error('--pool is btrfs or dir')
    const cacheDir = process.env['BERTH_LAB_CACHE']
    const servers = [...(values.lxd ? ['lxd' as const] : []), ...(values.incus ? ['incus' as const] : [])]
    const lab = await upLab({
      name: values.name,
      servers,
      images: values.images.split(','),
      poolDriver: values.pool,
      ...(cacheDir !== undefined && { cacheDir }),
      say
    }).catch((error: unknown) => {
      if (!(error instanceof UnfitMachine)) throw error
      say(error.message)
      process.exit(1)
    })
    process.stdout.write(values.json ? `${JSON.stringify(lab)}\n` : `${lab.lxdSocket}\n${lab.nodeAddress}\n`)
    break
  }
  case 'down':
    await downLab(values.name)
    break
  case 'list': {
    const labs = await listLabs()
    process.stdout.write(
      values.json
        ? `${JSON.stringify(labs)}\n`
        : labs.map(lab => `${lab.name} ${lab.lxdSocket} ${lab.nodeAddress}\n`).join('')
    )
    break
  }
  default:
    process.stderr.write(`${usage}\n`)
    process.exitCode = 64
}
