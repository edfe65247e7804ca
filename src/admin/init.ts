import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { DEFAULT_CONFIG_PATH, parseConfig } from '../config.ts'
import { listRecipes } from '../containers/image-recipe.ts'
import { UserError } from '../errors.ts'
import { type AdminSession, defineCommand } from './admin-command.ts'
import { renderConfig, renderUnit, UNIT_PATH } from './render-config.ts'
import { prepareStateDirectory } from './state-lock.ts'
import { surveyMachine } from './survey.ts'
import { BERTH_ROOT } from './version.ts'

export const init = defineCommand({
  command: 'init',
  describe: 'write a berth.yaml fitted to this machine, and a systemd unit',
  epilogue: `Finds LXD or Incus, its pools and images, the address and the GPUs. Writes what is missing and leaves what is there; with
--force writes both anew, and keeps what was there beside them, as berth.yaml.old. Nothing is changed in LXD: berth makes
its project and its bridge itself.`,
  builder: yargs =>
    yargs
      .option('stdout', { type: 'boolean', default: false, describe: 'show the berth.yaml, write nothing' })
      .option('force', {
        type: 'boolean',
        default: false,
        describe: 'write anew what is there, and keep the old beside it'
      })
      .option('lxd', {
        type: 'string',
        requiresArg: true,
        describe: 'socket of LXD or Incus, when not at a usual place'
      })
      .option('address', { type: 'string', requiresArg: true, describe: "the node's address for members" })
      .option('state-dir', {
        type: 'string',
        requiresArg: true,
        default: '/var/lib/berth',
        describe: 'where the database will be'
      })
      .option('unit', {
        type: 'string',
        requiresArg: true,
        default: UNIT_PATH,
        describe: 'where the unit goes; `none` for none'
      }),
  async handler({ stdout, force, lxd, address, stateDir, unit }, session) {
    const { console, configPath, loadConfig } = session
    const fit = async (): Promise<string> => {
      const survey = await surveyMachine(lxd?.replace(/^unix:\/\//, ''))
      const chosen = address ?? survey.addresses[0]
      if (chosen === undefined) {
        throw new UserError('usage', 'This machine has no address that members could use.', {
          hint: 'Name one with --address.'
        })
      }
      const recipes = await listRecipes()
      const text = renderConfig(survey, {
        stateDir: resolve(stateDir),
        unitPath: resolve(unit),
        address: chosen,
        recipes
      })
      // What was typed may be no address: said here, not by the next command.
      parseConfig(text, configPath)
      return text
    }
    if (stdout) return console.out((await fit()).trimEnd())
    const wanted = [configPath, ...(unit === 'none' ? [] : [unit])]
    const missing = wanted.filter(path => force || !existsSync(path))
    if (missing.length === 0) {
      throw new UserError('exists', `${wanted.join(' and ')}: there already.`, {
        hint: 'To write them anew: berth init --force'
      })
    }
    const kept: string[] = []
    try {
      if (missing.includes(configPath)) kept.push(...write(configPath, await fit(), 0o600))
      const config = loadConfig()
      prepareStateDirectory(config.stateDir)
      if (missing.includes(unit)) kept.push(...write(unit, renderUnit(config), 0o644))
      console.out(`Wrote ${missing.join(' and ')}.`)
    } finally {
      if (kept.length > 0) console.out(`What was there before is kept as ${kept.join(' and ')}.`)
    }
    for (const path of wanted) if (!missing.includes(path)) console.out(`Left ${path} as it was.`)
    sayNext(session, unit !== 'none')
  }
})

/** At every moment there is the old text or the new one. @returns where the old one is now, if it was another */
function write(path: string, text: string, mode: number): string[] {
  mkdirSync(dirname(path), { recursive: true })
  const isThere = existsSync(path)
  if (isThere && readFileSync(path, 'utf8') === text) return []
  const fresh = `${path}.new`
  rmSync(fresh, { force: true })
  writeFileSync(fresh, text, { mode, flag: 'wx', flush: true })
  const kept = isThere ? [keepAside(path)] : []
  renameSync(fresh, path)
  return kept
}

function keepAside(path: string): string {
  let aside = `${path}.old`
  for (let count = 2; existsSync(aside); count++) aside = `${path}.old${count}`
  linkSync(path, aside)
  return aside
}

function sayNext({ console, configPath }: AdminSession, withUnit: boolean): void {
  const option = configPath === DEFAULT_CONFIG_PATH ? '' : ` --config ${configPath}`
  const berth = `${BERTH_ROOT}/bin/berth`
  console.out(`Next, look through it, mend what doctor finds, and invite the first member:

    editor ${configPath}
    ${berth} doctor${option}
    ${withUnit ? 'systemctl daemon-reload && systemctl enable --now berth' : `${berth} serve${option}`}
    ${berth} invite NAME${option}
`)
}
