import { createHash } from 'node:crypto'
import { mkdir, readFile, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { buildImage, buildTree } from '../../src/containers/build-image.ts'
import { parseRecipe, readRecipe, type ImageRecipe } from '../../src/containers/image-recipe.ts'
import { takeLock } from './run.ts'

export interface ImageFiles {
  metadataPath: string
  rootfsPath: string
}

/** Half of the files, read by no test, and carried along by every unpacking, archive and import. */
const UNREAD = ['doc', 'info', 'locale', 'man', 'zoneinfo'].map(name => `/usr/share/${name}/*`)

/** Files of the image of recipe `name`, from the cache or built now. Two who want it at once wait for one build. */
export async function cachedImage(cacheDir: string, name: string, say: (line: string) => void): Promise<ImageFiles> {
  const whole = await readRecipe(name)
  const recipe = { ...whole, commands: [...whole.commands, `rm -rf ${UNREAD.join(' ')} /usr/lib/udev/hwdb.*`] }
  const directory = await cached(cacheDir, `image-${name}`, recipe, async partial => {
    say(`building the image ${name} (once; about a minute)`)
    await buildImage(recipe, partial)
  })
  return { metadataPath: join(directory, 'metadata.tar.gz'), rootfsPath: join(directory, 'rootfs.squashfs') }
}

/** The root file system that Incus runs from, from the cache or built now. */
export async function cachedIncusTree(cacheDir: string, say: (line: string) => void): Promise<string> {
  const recipe = parseRecipe(await readFile(join(import.meta.dirname, 'incus-tree.yaml'), 'utf8'), 'incus-tree')
  const directory = await cached(cacheDir, 'incus', recipe, async partial => {
    say('building the Debian tree that Incus runs from (once; about a minute)')
    await buildTree(recipe, join(partial, 'tree'))
  })
  return join(directory, 'tree')
}

/** `make` fills a directory that gets its final name only when complete; what killed builds left goes away with the next one. */
async function cached(
  cacheDir: string,
  kind: string,
  recipe: ImageRecipe,
  make: (partial: string) => Promise<void>
): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(recipe))
  hash.update(await readFile(join(import.meta.dirname, '../../src/containers/build-image.sh')))
  const directory = join(cacheDir, `${kind}-${hash.digest('hex').slice(0, 16)}`)
  await mkdir(cacheDir, { recursive: true })
  await using _lock = await takeLock(join(cacheDir, `${kind}.lock`))
  if ((await stat(directory).catch(() => undefined)) !== undefined) return directory
  for (const entry of await readdir(cacheDir)) {
    if (entry.startsWith(`.${kind}-`)) await rm(join(cacheDir, entry), { recursive: true, force: true })
  }
  const partial = join(cacheDir, `.${kind}-partial`)
  await mkdir(partial)
  await make(partial)
  await rename(partial, directory)
  return directory
}
