import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { join, relative } from 'node:path'
import Sqlite from 'better-sqlite3'
import { databasePath } from '../../app.ts'
import type { Config } from '../../config.ts'
import { UNIT_PATH } from '../render-config.ts'
import { fault, type Finding, ok, warning } from './finding.ts'

/** Part of the NAS that should be free. */
const ROOM = 0.1

/** `snapshots.dir`: there, the NAS it was before, closed to members, writable for us and for the unit at `unitPath`, not full. */
export function checkSnapshotDirectory(config: Config, unitPath = UNIT_PATH): Finding[] {
  const { dir } = config.snapshots
  if (dir === undefined) {
    const mend = `Set snapshots.dir in ${config.path} to a directory on the NAS, outside of every mount`
    return [warning('snapshots', 'snapshots.dir is not set: members cannot make archives', mend)]
  }
  if (!existsSync(dir))
    return [fault('snapshots', `${dir} is not there`, `mkdir -p -m 700 ${dir}   # if the NAS is mounted`)]
  if (!statSync(dir).isDirectory())
    return [fault('snapshots', `${dir} is no directory`, `Name a directory as snapshots.dir in ${config.path}`)]
  const real = realpathSync(dir)
  for (const { source } of [...config.nodes.values()].flatMap(node => node.mounts)) {
    // Symbolic links and bind mounts hide from the names in berth.yaml what this sees.
    if (existsSync(source) && overlaps(real, realpathSync(source))) {
      const text = `${dir} and the mount ${source} lie inside one another: members would reach the archives`
      return [fault('snapshots', text, `Give snapshots.dir in ${config.path} another directory`)]
    }
  }
  return [checkMarker(config, dir), checkPlace(dir), probeWriting(dir), checkUnit(dir, unitPath), checkRoom(dir)].flat()
}

const overlaps = (one: string, other: string): boolean =>
  [relative(one, other), relative(other, one)].some(path => !path.startsWith('..'))

const PROBE = '.berth-probe-'

function probeWriting(dir: string): Finding {
  try {
    // Of one that was killed because the NAS hung.
    for (const left of readdirSync(dir))
      if (left.startsWith(PROBE)) rmSync(join(dir, left), { recursive: true, force: true })
    const probe = mkdtempSync(join(dir, PROBE))
    writeFileSync(join(probe, 'probe'), 'berth', { flush: true })
    rmSync(probe, { recursive: true })
    return ok('snapshots', `${dir} can be written`)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const mend =
      code === 'EROFS'
        ? `mount -o remount,rw $(findmnt -n -o TARGET -T ${dir})`
        : `chown root ${dir} && chmod 700 ${dir}   # over NFS: export it with no_root_squash`
    return fault('snapshots', `${dir} cannot be written: ${message}`, mend)
  }
}

/** A unit that `init` wrote before `snapshots.dir` was set keeps `serve` from writing there, whatever we may. */
function checkUnit(dir: string, unitPath: string): Finding[] {
  if (!existsSync(unitPath)) return []
  const unit = readFileSync(unitPath, 'utf8')
  const writable = [...unit.matchAll(/^ReadWritePaths=(.*)$/gm)]
    .flatMap(([, words = '']) => words.match(/"[^"]*"|\S+/g) ?? [])
    .map(word => word.replaceAll(/^["+-]+|"$/g, '').replaceAll('%%', '%'))
  if (!unit.includes('ProtectSystem=strict') || writable.some(path => isInside(dir, path))) return []
  const mend = `rm ${unitPath} && berth init && systemctl daemon-reload && systemctl restart berth`
  return [fault('snapshots', `${unitPath} does not let berth serve write to ${dir}`, mend)]
}

const isInside = (path: string, directory: string): boolean => !relative(directory, path).startsWith('..')

/** An empty mount point passes for a directory: what berth wrote into it the first time tells them apart. */
function checkMarker(config: Config, dir: string): Finding[] {
  const path = databasePath(config)
  if (!existsSync(path)) return []
  const database = new Sqlite(path, { readonly: true, timeout: 5000 })
  let expected: string | undefined
  try {
    const isKept = database.prepare("SELECT 1 FROM sqlite_master WHERE name = 'snapshot_directories'").get()
    if (isKept) {
      expected = database
        .prepare<[string], string>('SELECT marker FROM snapshot_directories WHERE path = ?')
        .pluck()
        .get(dir)
    }
  } finally {
    database.close()
  }
  const marker = join(dir, '.berth')
  const found = existsSync(marker) ? readFileSync(marker, 'utf8').trim() : undefined
  if (expected === undefined || found === expected) return []
  const text = `${dir} is not the directory it was: its file .berth is ${found === undefined ? 'gone' : 'another one'}`
  const mend = `mount ${dir}   # if this is the NAS and you made it anew: echo ${expected} > ${marker}`
  return [fault('snapshots', text, mend)]
}

function checkPlace(dir: string): Finding[] {
  if (statSync(dir).dev !== statSync('/').dev) return []
  return [warning('snapshots', `${dir} is on this machine's own disk: archives go with it`, `mount the NAS at ${dir}`)]
}

function checkRoom(dir: string): Finding[] {
  const { bavail, blocks } = statfsSync(dir)
  const free = blocks === 0 ? 1 : bavail / blocks
  if (free > ROOM) return []
  const text = `${dir} is ${Math.floor((1 - free) * 100)} % full`
  return [warning('snapshots', text, 'berth snapshot list; then ask members to remove what they do not need')]
}
