import { compareVersions, parseVersion, type ServerInfo, type Version } from './server.ts'

export interface KnownHole {
  readonly id: string
  readonly what: string
  /** The next version without it. */
  readonly fixedIn: string
}

interface Row {
  readonly id: string
  readonly what: string
  /** First version without it of each line that has one, ascending; the last holds for everything newer. */
  readonly fixed: readonly Version[]
}

/** Through a crafted archive or image, from the CVE records (github.com/CVEProject/cvelistV5) of 2026. */
const HOLES: Record<ServerInfo['kind'], readonly Row[]> = {
  lxd: [
    {
      id: 'CVE-2026-66898',
      what: 'names inside a backup reach files outside the container',
      fixed: [[5, 0, 4], [5, 21, 2], [6, 1, 0]] // prettier-ignore
    },
    {
      id: 'CVE-2026-34178',
      what: 'the configuration inside a backup passes by the restrictions of a project',
      fixed: [[5, 0, 7], [5, 21, 5], [6, 8, 0]] // prettier-ignore
    },
    {
      id: 'CVE-2026-9640',
      what: 'snapshots inside a backup pass by the restrictions of a project',
      fixed: [[5, 0, 7], [5, 21, 5], [6, 9, 0]] // prettier-ignore
    },
    {
      id: 'CVE-2026-63294',
      what: 'a symlink as backup.yaml inside a backup runs commands on the host',
      fixed: [[5, 0, 8], [5, 21, 6], [6, 10, 0]] // prettier-ignore
    },
    {
      id: 'CVE-2026-66897',
      what: 'templates inside a backup or image write files of the host',
      fixed: [[5, 0, 9], [5, 21, 7], [6, 10, 0]] // prettier-ignore
    }
  ],
  incus: [
    {
      id: 'CVE-2026-23954',
      what: 'templates inside a backup or image read and write files of the host',
      fixed: [[6, 0, 6], [6, 21, 0]] // prettier-ignore
    },
    { id: 'CVE-2026-48749', what: 'a symlink as rootfs inside an image reaches files of the host', fixed: [[7, 2, 0]] },
    {
      id: 'CVE-2026-48752',
      what: 'a symlink as templates inside a backup reaches files of the host',
      fixed: [[7, 2, 0]]
    },
    { id: 'CVE-2026-63125', what: 'a symlink as backup.yaml runs commands on the host', fixed: [[7, 3, 0]] }
  ]
}

/**
 * Published holes in the import of backups and images that a server of this version has. A version is no proof either way for a
 * distribution's package: those are mended without a new number, so its changelog has the last word.
 */
export function knownHoles(server: Pick<ServerInfo, 'kind' | 'version'>): KnownHole[] {
  const version = parseVersion(server.version)
  return HOLES[server.kind].flatMap(({ id, what, fixed }) => {
    const fix = version === undefined ? fixed.at(-1) : fixed.find(candidate => isSameOrLaterLine(candidate, version))
    if (fix === undefined || (version !== undefined && compareVersions(version, fix) >= 0)) return []
    return [{ id, what, fixedIn: fix.join('.') }]
  })
}

function isSameOrLaterLine(fix: Version, version: Version): boolean {
  return fix[0] > version[0] || (fix[0] === version[0] && fix[1] >= version[1])
}
