import { loadConfig } from '../../config.ts'
import { guard } from './finding.ts'
import { checkMounts } from './mounts.ts'
import { checkSnapshotDirectory } from './snapshots.ts'

/* What berth forks for checks that a NAS may keep for ever (nas.ts): of a node's mounts, or of snapshots.dir. */

const [configPath = '', nodeName = ''] = process.argv.slice(2)
const config = loadConfig(configPath)
const node = config.nodes.get(nodeName)
const found = node
  ? await guard('mounts', () => checkMounts(config.path, node))
  : await guard('snapshots', () => checkSnapshotDirectory(config))
process.send?.(found, () => process.disconnect())
