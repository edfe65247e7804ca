import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { UserError } from '../errors.ts'

const recipesDir = join(import.meta.dirname, '../../templates/images')

const word = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9.+_~-]*$/)

const absolutePath = z.string().regex(/^(\/(?!\.{1,2}(\/|$))[^/\n]+)+$/, 'must be an absolute path without . and ..')

const recipeSchema = z.strictObject({
  description: z.string().regex(/^[^\n]{1,200}$/),
  os: word,
  release: word,
  /** Debian or Ubuntu suite that debootstrap knows. */
  suite: word,
  mirror: z.url({ protocol: /^https?$/ }),
  components: z.array(word).min(1).default(['main']),
  packages: z.array(word).default([]),
  files: z
    .array(
      z.strictObject({
        path: absolutePath,
        content: z.string(),
        mode: z.int().min(0).max(0o7777).default(0o644)
      })
    )
    .default([]),
  /** Files that LXD writes anew at the `when` of each container, filled in by pongo2 (LXD's "image format", templates). */
  templates: z
    .array(
      z.strictObject({
        path: absolutePath,
        content: z.string(),
        properties: z.record(word, z.string()).default({}),
        when: z.array(z.enum(['create', 'copy', 'rename', 'start'])).default(['create', 'copy'])
      })
    )
    .default([]),
  /** Shell lines run as root inside the tree, in order; the first that fails ends the build. */
  commands: z.array(z.string()).default([])
})

export type ImageRecipe = z.infer<typeof recipeSchema>

/** Recipe text (YAML) → recipe. Throws UserError `bad-recipe` naming every fault. */
export function parseRecipe(text: string, name: string): ImageRecipe {
  let document: unknown
  try {
    document = parse(text)
  } catch (error) {
    throw new UserError('bad-recipe', `${name}: ${(error as Error).message}`, { cause: error })
  }
  const parsed = recipeSchema.safeParse(document)
  if (parsed.success) return parsed.data
  const faults = parsed.error.issues.map(issue => `${issue.path.join('.') || 'recipe'}: ${issue.message}`)
  throw new UserError('bad-recipe', `${name}: ${faults.join('; ')}`)
}

/** The names of the recipes in templates/images. */
export async function listRecipes(): Promise<string[]> {
  const files = await readdir(recipesDir)
  return files
    .filter(file => file.endsWith('.yaml'))
    .map(file => file.slice(0, -'.yaml'.length))
    .sort()
}

/** The recipe templates/images/NAME.yaml. Throws UserError `bad-recipe` where there is none or it is not valid. */
export async function readRecipe(name: string): Promise<ImageRecipe> {
  const names = await listRecipes()
  if (!names.includes(name)) {
    throw new UserError('bad-recipe', `There is no recipe ${JSON.stringify(name)}.`, {
      hint: `There are: ${names.join(', ')}.`
    })
  }
  return parseRecipe(await readFile(join(recipesDir, `${name}.yaml`), 'utf8'), name)
}
