import { compareVersions, parseVersion, type ServerInfo, type Version } from './server.ts'

export interface KnownHole {
  readonly id: string
  /** The next version without it. */
  readonly fixedIn: string
}

/**
 * Through a crafted archive or image, from the CVE records (github.com/CVEProject/cvelistV5) of 2026, as they were mended: the first
 * version without it of each line that has one; the last holds for everything newer. docs/operations.md tells what each is.
 */
const HOLES: Record<ServerInfo['kind'], readonly (readonly [id: string, fixed: string])[]> = {
  lxd: [
    ['CVE-2026-66898', '5.0.4 5.21.2 6.1.0'],
    ['CVE-2026-34178', '5.0.7 5.21.5 6.8.0'],
    ['CVE-2026-9640', '5.0.7 5.21.5 6.9.0'],
    ['CVE-2026-63294', '5.0.8 5.21.6 6.10.0'],
    ['CVE-2026-66897', '5.0.9 5.21.7 6.10.0']
  ],
  incus: [
    ['CVE-2026-23954', '6.0.6 6.21.0'],
    ['CVE-2026-48749', '7.2.0'],
    ['CVE-2026-48752', '7.2.0'],
    ['CVE-2026-63125', '7.3.0']
  ]
}

/**
 * Published holes in the import of backups and images that a server of this version has. A version is no proof either way for a
 * distribution's package: those are mended without a new number, so its changelog has the last word.
 * @returns in the order they were mended: the last one's `fixedIn` is without all
 */
export function knownHoles(server: Pick<ServerInfo, 'kind' | 'version'>): KnownHole[] {
  const version = parseVersion(server.version)
  return HOLES[server.kind].flatMap(([id, text]) => {
    const fixed = text.split(' ').map(word => parseVersion(word) as Version)
    const fix = version === undefined ? fixed.at(-1) : fixed.find(candidate => isSameOrLaterLine(candidate, version))
    if (fix === undefined || (version !== undefined && compareVersions(version, fix) >= 0)) return []
    return [{ id, fixedIn: fix.join('.') }]
  })
}

function isSameOrLaterLine(fix: Version, version: Version): boolean {
  return fix[0] > version[0] || (fix[0] === version[0] && fix[1] >= version[1])
}
