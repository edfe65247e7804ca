import { quote, refuseArchive } from './archive-refusal.ts'
import type { TarEntry } from './tar-reader.ts'

const CONTAINER = 'backup/container'
export const INDEX_YAML = 'backup/index.yaml'
const BACKUP_YAML = `${CONTAINER}/backup.yaml`
const ROOTFS = `${CONTAINER}/rootfs`
const TEMPLATES = `${CONTAINER}/templates`
const METADATA_YAML = `${CONTAINER}/metadata.yaml`

/** LXD's own are a few KiB; templates are short scripts. */
const MAX_YAML_BYTES = 64 * 1024
const MAX_TEMPLATE_BYTES = 2 ** 20
const MAX_TEMPLATES = 64
/** PATH_MAX: no server could have written a longer one. */
const MAX_PATH_BYTES = 4096

/**
 * Device nodes an image's /dev may have, `major:minor`: null, zero, full, random, urandom, tty, console, ptmx, tun, fuse, and 0:0 which
 * overlayfs leaves for a deleted file. Members cannot make any other, and a disk's would be the host's disk.
 */
const DEVICE_NODES = new Set(['0:0', '1:3', '1:5', '1:7', '1:8', '1:9', '5:0', '5:1', '5:2', '10:200', '10:229'])

/**
 * What may lie where in an archive, and in which order: as the server walks the container's directory, each directory first and then
 * what is in it, sorted. In that order no path can come twice and nothing can lie below what is not a directory, so neither needs
 * a list of all paths.
 */
export class ArchiveLayout {
  readonly #receiveYaml: (path: string, content: Buffer) => void
  #isFirst = true
  /** As a key that sorts as the walk does. */
  #lastKey = ''
  readonly #openDirectories: string[] = []
  readonly #seen = new Set<string>()
  #templateCount = 0

  /** `receiveYaml` gets index.yaml and backup.yaml, each once. */
  constructor(receiveYaml: (path: string, content: Buffer) => void) {
    this.#receiveYaml = receiveYaml
  }

  /** A visitor for TarReader. @throws UserError `archive-refused` */
  readonly visit = (entry: TarEntry): ((content: Buffer) => void) | undefined => {
    const { path, type } = entry
    if (this.#isFirst) {
      this.#isFirst = false
      if (path !== INDEX_YAML || type !== 'file') refuseArchive(`It does not begin with ${INDEX_YAML}.`)
      return this.#collectYaml(entry)
    }
    this.#checkPlace(entry)
    if (path.startsWith(`${ROOTFS}/`)) return checkInside(entry)
    return this.#takeServersOwn(entry)
  }

  /** @throws UserError `archive-refused` when something is missing */
  end(): void {
    for (const path of [BACKUP_YAML, ROOTFS]) if (!this.#seen.has(path)) refuseArchive(`It has no ${path}.`)
  }

  #checkPlace({ path, type }: TarEntry): void {
    checkPath(path)
    const key = path.replaceAll('/', '\0')
    if (key === this.#lastKey) refuseArchive(`It has ${quote(path)} twice.`)
    if (key < this.#lastKey) refuseArchive(`${quote(path)} is out of order: it may hide another entry of that name.`)
    this.#lastKey = key
    if (path === CONTAINER) {
      if (type !== 'directory') refuseArchive(`${CONTAINER} is not a directory.`)
    } else {
      while (this.#openDirectories.length > 0 && !path.startsWith(`${this.#openDirectories.at(-1)}/`))
        this.#openDirectories.pop()
      if (path.slice(0, path.lastIndexOf('/')) !== this.#openDirectories.at(-1))
        refuseArchive(`${quote(path)} lies where no backup has anything, or below what is not a directory.`)
    }
    if (type === 'directory') this.#openDirectories.push(path)
  }

  /** What the server reads or runs as itself, outside of the container's root. */
  #takeServersOwn(entry: TarEntry): ((content: Buffer) => void) | undefined {
    const { path } = entry
    this.#seen.add(path)
    if (path === CONTAINER || path === ROOTFS || path === TEMPLATES) {
      if (entry.type !== 'directory') refuseArchive(`${path} is not a directory.`)
      return undefined
    }
    if (entry.type !== 'file') refuseArchive(`${quote(path)} is not a regular file.`)
    if (path === BACKUP_YAML) return this.#collectYaml(entry)
    // Templates are files that the server would write into the container when it starts; an imported one is told to write none.
    const isTemplate = path.startsWith(`${TEMPLATES}/`)
    if (path !== METADATA_YAML && !isTemplate) refuseArchive(`${quote(path)} is nothing a backup has.`)
    if (isTemplate && ++this.#templateCount > MAX_TEMPLATES) refuseArchive('It has too many templates.')
    if (entry.sizeBytes > MAX_TEMPLATE_BYTES) refuseArchive(`${quote(path)} is too large.`)
    return undefined
  }

  #collectYaml({ path, sizeBytes }: TarEntry): (content: Buffer) => void {
    if (sizeBytes > MAX_YAML_BYTES) refuseArchive(`${quote(path)} is too large.`)
    return content => this.#receiveYaml(path, content)
  }
}

function checkPath(path: string): void {
  if (path.length > MAX_PATH_BYTES) refuseArchive('It has a path longer than any system allows.')
  // In tar's own words `./a`, `a//b` and `a/` are other names for what is already there.
  if (/(^|\/)\.{0,2}(\/|$)/.test(path)) refuseArchive(`${quote(path)} is a path that could lead elsewhere.`)
}

/** The member's files: any, but no device of the host's and no link to what is not the member's. */
function checkInside({ path, type, target, deviceMajor, deviceMinor }: TarEntry): undefined {
  if (type === 'block' || (type === 'char' && !DEVICE_NODES.has(`${deviceMajor}:${deviceMinor}`)))
    refuseArchive(`${quote(path)} is a device node ${deviceMajor}:${deviceMinor}, which members cannot make.`)
  if (type !== 'link') return undefined
  checkPath(target)
  if (!target.startsWith(`${ROOTFS}/`) || target.replaceAll('/', '\0') >= path.replaceAll('/', '\0'))
    refuseArchive(`${quote(path)} is a hard link to ${quote(target)}, which is not a file of the container before it.`)
  return undefined
}
