import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { access, chmod, constants, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { create } from 'tar'
import { stringify } from 'yaml'
import { UserError } from '../errors.ts'
import type { ImageRecipe } from './image-recipe.ts'

const script = join(import.meta.dirname, 'build-image.sh')

interface BuildOptions {
  signal?: AbortSignal
  /** One line of what the tools say. */
  onProgress?: (line: string) => void
}

export interface BuiltImage {
  metadataPath: string
  rootfsPath: string
  /** SHA-256 over both files, as LXD computes it for a split image. */
  fingerprint: string
}

const tools = { debootstrap: 'debootstrap', mksquashfs: 'squashfs-tools', unshare: 'util-linux', setpriv: 'util-linux' }

/** Makes an image of the recipe: `metadata.tar.gz` and `rootfs.squashfs` in `outDir`, ready for LXD's POST /1.0/images. Needs root. */
export async function buildImage(recipe: ImageRecipe, outDir: string, options: BuildOptions = {}): Promise<BuiltImage> {
  const rootfsPath = join(outDir, 'rootfs.squashfs')
  const metadataPath = join(outDir, 'metadata.tar.gz')
  await withWorkDir(outDir, async work => {
    await runScript(recipe, work, options, join(work, 'rootfs.squashfs'))
    await writeMetadata(recipe, work)
    await rename(join(work, 'rootfs.squashfs'), rootfsPath)
    await rename(join(work, 'metadata.tar.gz'), metadataPath)
  })
  return { metadataPath, rootfsPath, fingerprint: await hashFiles([metadataPath, rootfsPath]) }
}

/** Makes the recipe's root file system as the directory `treeDir`, which must not exist yet. Needs root. */
export async function buildTree(recipe: ImageRecipe, treeDir: string, options: BuildOptions = {}): Promise<void> {
  await withWorkDir(dirname(treeDir), async work => {
    await runScript(recipe, work, options)
    await rename(join(work, 'tree'), treeDir)
  })
}

async function withWorkDir(parent: string, use: (work: string) => Promise<void>): Promise<void> {
  await requireTools()
  await mkdir(parent, { recursive: true })
  const work = await mkdtemp(join(parent, '.build-'))
  try {
    await use(work)
  } finally {
    await rm(work, { recursive: true, force: true, maxRetries: 10 })
  }
}

async function requireTools(): Promise<void> {
  if (process.getuid?.() !== 0) throw new UserError('cannot-build', 'Building an image needs root.')
  const missing = new Set<string>()
  for (const [tool, aptPackage] of Object.entries(tools)) if (!(await isInstalled(tool))) missing.add(aptPackage)
  if (missing.size === 0) return
  throw new UserError('cannot-build', `Missing on this machine: ${[...missing].join(', ')}.`, {
    hint: `Install with: apt-get install ${[...missing].join(' ')}`
  })
}

const systemPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

async function isInstalled(tool: string): Promise<boolean> {
  for (const directory of systemPath.split(':')) {
    if (
      await access(join(directory, tool), constants.X_OK).then(
        () => true,
        () => false
      )
    )
      return true
  }
  return false
}

async function runScript(recipe: ImageRecipe, work: string, options: BuildOptions, rootfs?: string): Promise<void> {
  const files = join(work, 'files')
  await mkdir(files)
  for (const file of recipe.files) {
    const path = join(files, file.path)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, file.content)
    await chmod(path, file.mode)
  }
  await writeFile(join(work, 'commands'), recipe.commands.map(command => `${command}\n`).join(''))
  const build = [
    work,
    recipe.os,
    recipe.suite,
    recipe.mirror,
    recipe.components.join(' '),
    recipe.packages.join(' '),
    ...(rootfs ? [rootfs] : [])
  ]
  // When this process dies, setpriv's signal ends unshare, and unshare's ends the pid namespace: no mount and no process stays.
  const namespaces = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child', '--mount-proc']
  await runLines(
    'setpriv',
    ['--pdeathsig', 'KILL', 'unshare', ...namespaces, 'sh', script, ...build],
    recipe.suite,
    options
  )
}

async function runLines(
  command: string,
  args: string[],
  what: string,
  { signal, onProgress }: BuildOptions
): Promise<void> {
  signal?.throwIfAborted()
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const kill = () => child.kill('SIGKILL')
  signal?.addEventListener('abort', kill)
  const lastLines: string[] = []
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', line => {
      onProgress?.(line)
      lastLines.push(line)
      if (lastLines.length > 10) lastLines.shift()
    })
  }
  const exitCode = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  }).finally(() => signal?.removeEventListener('abort', kill))
  signal?.throwIfAborted()
  if (exitCode !== 0) throw new UserError('cannot-build', `Building ${what} failed:\n${lastLines.join('\n')}`)
}

const hosts = '127.0.0.1\tlocalhost\n127.0.1.1\t{{ container.name }}\n::1\tlocalhost ip6-localhost ip6-loopback\n'

const nameTemplates: ImageRecipe['templates'] = [
  { path: '/etc/hostname', content: '{{ container.name }}\n', properties: {}, when: ['create', 'copy', 'rename'] },
  { path: '/etc/hosts', content: hosts, properties: {}, when: ['create', 'copy', 'rename'] }
]

/** The metadata tarball (LXD's "image format"): what the image is, and the files LXD fills in for each container. */
async function writeMetadata(recipe: ImageRecipe, work: string): Promise<void> {
  const metadata = join(work, 'metadata')
  await mkdir(join(metadata, 'templates'), { recursive: true })
  const templates: Record<string, object> = {}
  for (const [index, { path, content, properties, when }] of [...nameTemplates, ...recipe.templates].entries()) {
    const template = `${index}-${basename(path)}.tpl`
    await writeFile(join(metadata, 'templates', template), content)
    templates[path] = { when, template, properties }
  }
  const facts = {
    architecture: process.arch === 'arm64' ? 'aarch64' : 'x86_64',
    creation_date: Math.floor(Date.now() / 1000),
    properties: { description: recipe.description, os: recipe.os, release: recipe.release },
    templates
  }
  await writeFile(join(metadata, 'metadata.yaml'), stringify(facts))
  const archive = { cwd: metadata, gzip: true, portable: true, file: join(work, 'metadata.tar.gz') }
  await create(archive, ['metadata.yaml', 'templates'])
}

async function hashFiles(paths: string[]): Promise<string> {
  const hash = createHash('sha256')
  for (const path of paths) for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
