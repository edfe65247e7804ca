import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { connectToNode } from '../app.ts'
import type { Config, NodeConfig, Template } from '../config.ts'
import { type BuiltImage, buildImage } from '../containers/build-image.ts'
import { listRecipes, readRecipe } from '../containers/image-recipe.ts'
import { blame } from '../containers/translate.ts'
import { UserError } from '../errors.ts'
import { findImage, importImage, listImages, setImageAlias } from '../lxd/images.ts'
import { LxdError } from '../lxd/lxd-error.ts'
import type { Report } from '../operations/operations.ts'
import { defineAction } from './action.ts'
import { type AdminGroup, defineCommand, jsonOption } from './admin-command.ts'
import { formatBytes } from '../command/units.ts'
import { needNode } from './node-actions.ts'

interface Presence {
  node: string
  fingerprint?: string
  sizeBytes?: number
  fault?: string
}

const listTemplates = defineAction(
  'template.list',
  z.strictObject({}),
  app => {
    const onNode = async (template: Template, node: NodeConfig): Promise<Presence> => {
      try {
        const image = await findImage(app.lxdFor(node).inProject('default'), template.image)
        if (image === undefined) return { node: node.name }
        return { node: node.name, fingerprint: image.fingerprint, sizeBytes: image.size }
      } catch (error) {
        if (!(error instanceof LxdError || error instanceof UserError)) throw error
        return { node: node.name, fault: error.message }
      }
    }
    return Promise.all(
      app.config.templates.map(async template => ({
        ...template,
        nodes: await Promise.all([...app.config.nodes.values()].map(node => onNode(template, node)))
      }))
    )
  },
  { readOnly: true }
)

export const templateActions = [listTemplates]

function needTemplate(config: Config, name: string): Template {
  const template = config.templates.find(candidate => candidate.name === name)
  if (template !== undefined) return template
  throw new UserError('unknown-template', `${config.path} has no template ${JSON.stringify(name)}.`, {
    hint: `It has: ${config.templates.map(candidate => candidate.name).join(', ')}.`
  })
}

/** Puts a built image into a node under the template's alias; the image that had the alias stays, without it. */
async function bringTo(
  config: Config,
  node: NodeConfig,
  { image: alias }: Template,
  built: BuiltImage,
  report: Report
): Promise<void> {
  const lxd = connectToNode(config, node)
  try {
    // Images are shared by all projects of a node (features.images false).
    const shared = lxd.inProject('default')
    const refused = blame(node, 'cannot-create', `Find the fault with: berth node check ${node.name}`)
    const known = (await listImages(shared).catch(refused)).some(image => image.fingerprint === built.fingerprint)
    if (!known) await importImage(shared, built, { onProgress: report }).catch(refused)
    await setImageAlias(shared, alias, built.fingerprint).catch(refused)
  } finally {
    await lxd.close()
  }
}

const list = defineCommand({
  command: 'list',
  describe: 'the templates of berth.yaml, and where their images are',
  builder: yargs => yargs.option('json', jsonOption),
  async handler({ json }, { console, perform }) {
    const templates = await perform(listTemplates, {})
    if (json) return console.json(templates)
    console.table(
      ['TEMPLATE', 'IMAGE', 'NODE', 'SIZE', 'FINGERPRINT', 'DESCRIPTION'],
      templates.flatMap(({ name, image, description, nodes }) =>
        nodes.map(({ node, sizeBytes, fingerprint, fault }) => [
          name,
          image,
          node,
          sizeBytes === undefined ? '-' : formatBytes(sizeBytes),
          fingerprint?.slice(0, 12) ?? fault ?? `missing: berth template build ${name}`,
          description
        ])
      )
    )
  }
})

const build = defineCommand({
  command: 'build <name>',
  describe: 'build the image of a template from its recipe, and bring it to the nodes',
  epilogue: `Makes a Debian or Ubuntu image by debootstrap from templates/images/NAME.yaml, which takes some minutes, and gives it the
template's alias on every node. Containers that exist are not touched. An image from elsewhere does as well if sshd and sudo
are in it, as in Ubuntu's own: lxc image copy ubuntu:24.04 local: --alias IMAGE. (The remote images: of LXD 5.0 no longer serves it.)`,
  builder: yargs =>
    yargs
      .positional('name', { type: 'string', demandOption: true, describe: 'the template' })
      .option('recipe', { type: 'string', requiresArg: true, describe: 'another recipe than that of the same name' })
      .option('node', { type: 'string', requiresArg: true, describe: 'this node alone' }),
  async handler({ name, recipe, node }, { console, loadConfig }) {
    const config = loadConfig()
    const template = needTemplate(config, name)
    const nodes = node === undefined ? [...config.nodes.values()] : [needNode(config, node)]
    const recipes = await listRecipes()
    const source = await readRecipe(recipe ?? [name, template.image].find(word => recipes.includes(word)) ?? name)
    // Not /tmp: an image is a gigabyte, and /tmp may be memory.
    const directory = mkdtempSync('/var/tmp/berth-image-')
    const interrupted = new AbortController()
    process.once('SIGINT', () => interrupted.abort(new UserError('cannot-build', 'It was interrupted.')))
    try {
      const built = await buildImage(source, join(directory, 'image'), {
        signal: interrupted.signal,
        onProgress: line => console.report(`building ${source.description}: ${line}`)
      })
      for (const target of nodes) {
        console.report(`bringing it to ${target.name}`)
        await bringTo(config, target, template, built, console.report)
        console.out(`${target.name} has ${template.image} (${built.fingerprint.slice(0, 12)}).`)
      }
    } finally {
      console.endProgress()
      rmSync(directory, { recursive: true, force: true })
    }
  }
})

export const template: AdminGroup = {
  command: 'template',
  describe: 'the images members may choose from',
  commands: [list, build]
}
