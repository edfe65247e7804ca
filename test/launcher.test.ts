import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { run, type Ran } from './rig.ts'

const ROOT = join(import.meta.dirname, '..')
const TOOLS = ['sh', 'readlink', 'uname', 'cmp', 'cp', 'mv', 'rm', 'mkdir', 'sleep', 'ln', 'flock', 'cat']
/** Does what `npm ci` does as far as the launcher can tell, and leaves a line for each run. */
const NPM = `#!/bin/sh
echo "$*" >> ../npm-runs
[ -e ../npm-fails ] && exit 1
rm -rf node_modules
mkdir node_modules
[ -e ../npm-hangs ] && rm ../npm-hangs && sleep 6 && exit 1
ln -s ${dirname(dirname(process.execPath))} node_modules/node-linux-${process.arch}
sleep 0.3
`

let place: string
let checkout: string

/** A checkout of the launcher alone, and a PATH that holds the tools named here and perhaps an npm. */
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), 'berth-launcher-'))
  checkout = join(place, 'checkout')
  for (const name of ['bin', 'scripts/node24', 'package-lock.json']) {
    cpSync(join(ROOT, name), join(checkout, name), { recursive: true })
  }
  mkdirSync(join(checkout, 'src'))
  writeFileSync(join(checkout, 'src/main.ts'), 'console.log(JSON.stringify(process.argv.slice(2)))')
  writeFileSync(join(checkout, 'scripts/build-ciphers.mjs'), '')
  mkdirSync(join(place, 'path'))
  for (const tool of TOOLS) symlinkSync(`/usr/bin/${tool}`, join(place, 'path', tool))
})
afterEach(() => rmSync(place, { recursive: true }))

const giveNpm = () => {
  writeFileSync(join(place, 'path/npm'), NPM)
  chmodSync(join(place, 'path/npm'), 0o755)
}
const berth = (...words: string[]): Promise<Ran> =>
  run([join(checkout, 'bin/berth'), ...words], { env: { PATH: join(place, 'path') } })
const npmRuns = () => readFileSync(join(place, 'npm-runs'), 'utf8').trimEnd().split('\n')

describe('the launcher', () => {
  it('says what it lacks where there is neither dependency nor npm', async () => {
    const { code, stderr } = await berth('help')
    expect(code).toBe(69)
    expect(stderr).toContain('no npm')
  })

  it('installs once, says so, and passes every word on', async () => {
    giveNpm()
    const first = await berth('a b', '--c', '')
    expect(first).toMatchObject({ code: 0, stdout: '["a b","--c",""]\n' })
    expect(first.stderr).toContain('installing the dependencies')
    expect(await berth('again')).toMatchObject({ code: 0, stdout: '["again"]\n', stderr: '' })
    expect(npmRuns()).toHaveLength(1)
    expect(npmRuns()[0]).toMatch(/^ci --ignore-scripts /)
  })

  it('needs no npm any more once it is set up, from any directory and through symlinks', async () => {
    giveNpm()
    await berth()
    rmSync(join(place, 'path/npm'))
    symlinkSync(join(checkout, 'bin/berth'), join(place, 'one'))
    symlinkSync('one', join(place, 'two'))
    const linked = await run(['sh', '-c', `cd / && ${join(place, 'two')} here`], { env: { PATH: join(place, 'path') } })
    expect(linked).toMatchObject({ code: 0, stdout: '["here"]\n', stderr: '' })
  })

  it('installs again when the lock file has changed, and after an install that was killed half-way', async () => {
    giveNpm()
    await berth()
    writeFileSync(join(checkout, 'package-lock.json'), '{}')
    writeFileSync(join(place, 'npm-hangs'), '')
    const kill = `timeout --foreground --signal=KILL 2 ${join(checkout, 'bin/berth')} > /dev/null 2>&1`
    await run(['sh', '-c', kill], { env: { PATH: `${join(place, 'path')}:/usr/bin` } })
    // The npm it started is still at work and must not meet a second one.
    const whole = await berth('whole')
    expect(whole).toMatchObject({ code: 0, stdout: '["whole"]\n' })
    expect(whole.stderr).toContain('waiting for another berth')
    expect(npmRuns()).toHaveLength(3)
  })

  it('lets one install and the others wait', async () => {
    giveNpm()
    const all = await Promise.all([berth('1'), berth('2'), berth('3')])
    expect(all.map(({ stdout }) => stdout)).toEqual(['["1"]\n', '["2"]\n', '["3"]\n'])
    expect(npmRuns()).toHaveLength(1)
    expect(all.filter(({ stderr }) => stderr.includes('waiting for another berth'))).not.toHaveLength(0)
  })

  it('passes a failed npm on and runs nothing', async () => {
    giveNpm()
    writeFileSync(join(place, 'npm-fails'), '')
    expect(await berth()).toMatchObject({
      code: 69,
      stdout: '',
      stderr: expect.stringContaining('npm ci failed') as string
    })
    expect(existsSync(join(checkout, 'node_modules'))).toBe(false)
  })
})
