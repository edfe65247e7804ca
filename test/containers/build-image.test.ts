import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { buildImage } from '../../src/containers/build-image.ts'
import { listRecipes, parseRecipe, readRecipe } from '../../src/containers/image-recipe.ts'

const small = 'description: x\nos: Debian\nrelease: "12"\nsuite: bookworm\nmirror: http://deb.debian.org/debian\n'

test('every recipe that comes along is valid', async () => {
  const names = await listRecipes()
  expect(names).toContain('debian-12')
  for (const name of names) expect(await readRecipe(name)).toHaveProperty('suite')
})

test.each([
  ['an option of debootstrap for a suite', small.replace('bookworm', '--foreign'), 'suite'],
  ['a mirror that is a file', small.replace('http://deb.debian.org', 'file:///'), 'mirror'],
  ['a package that is an option', `${small}packages: ["-o=x"]\n`, 'packages.0'],
  ['a path that leaves the tree', `${small}files: [{path: /etc/../../x, content: ""}]\n`, 'files.0.path'],
  ['an unknown key', `${small}sweet: yes\n`, 'sweet'],
  ['no YAML', 'a: [', 'x.yaml']
])('a recipe with %s is refused, and the fault named', (_what, text, fault) => {
  expect(() => parseRecipe(text, 'x.yaml')).toThrow(
    expect.objectContaining({ reason: 'bad-recipe', details: expect.stringContaining(fault) })
  )
})

test('a recipe that is not there is refused with the list of those that are', async () => {
  await expect(readRecipe('../debian-12')).rejects.toMatchObject({
    reason: 'bad-recipe',
    hint: expect.stringContaining('debian-12')
  })
})

test('an aborted build ends at once and leaves neither files nor processes', async () => {
  const directory = await mkdtemp('/var/tmp/berth-build-')
  const controller = new AbortController()
  try {
    const build = buildImage(await readRecipe('debian-12'), directory, {
      signal: controller.signal,
      onProgress: line => line.startsWith('I: Retrieving') && controller.abort(new Error('enough'))
    })
    await expect(build).rejects.toThrow('enough')
    expect(await readdir(directory)).toEqual([])
    const pids = await readdir('/proc')
    const commands = await Promise.all(pids.map(pid => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')))
    expect(commands.filter(command => command.includes(directory))).toEqual([])
  } finally {
    await rm(directory, { recursive: true })
  }
})

test('a build that fails says what the tools said', async () => {
  const directory = await mkdtemp('/var/tmp/berth-build-')
  try {
    const recipe = parseRecipe(small.replace('deb.debian.org', 'no-such-mirror.invalid'), 'x')
    await expect(buildImage(recipe, directory)).rejects.toMatchObject({
      reason: 'cannot-build',
      details: expect.stringContaining('no-such-mirror.invalid')
    })
    expect(await readdir(directory)).toEqual([])
  } finally {
    await rm(directory, { recursive: true })
  }
})
