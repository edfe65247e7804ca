-- One-time confirmations: only the SHA-256 of a token is kept, with all that it is bound to.
CREATE TABLE tokens (
  id            INTEGER PRIMARY KEY,
  user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  node          TEXT    NOT NULL,
  action        TEXT    NOT NULL CHECK (action IN ('snapshot', 'replace', 'remove-snapshot')),
  -- What the action is about where it has an object: the name of the snapshot to remove.
  subject       TEXT    NOT NULL DEFAULT '',
  token_sha256  BLOB    NOT NULL UNIQUE,
  expires_at_ms INTEGER NOT NULL,
  used_at_ms    INTEGER
) STRICT;
CREATE INDEX tokens_by_user ON tokens (user_id);

-- One whole archive each, written only when the file is on disk under its name. The user cannot be deleted before the files are.
CREATE TABLE snapshots (
  id                 INTEGER PRIMARY KEY,
  user_id            INTEGER NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
  node               TEXT    NOT NULL,
  -- The file's name in the user's directory, which is also the name people use.
  name               TEXT    NOT NULL UNIQUE,
  template           TEXT    NOT NULL,
  note               TEXT    NOT NULL DEFAULT '',
  scheduled          INTEGER NOT NULL DEFAULT 0 CHECK (scheduled IN (0, 1)),
  created_at_ms      INTEGER NOT NULL,
  size_bytes         INTEGER NOT NULL,
  uncompressed_bytes INTEGER NOT NULL,
  -- Of the file as it is, compressed; lower-case hex.
  sha256             TEXT    NOT NULL,
  compression        TEXT    NOT NULL CHECK (compression IN ('zstd', 'gzip', 'none')),
  -- Name of the instance inside the archive: the temporary copy it was taken from.
  instance           TEXT    NOT NULL,
  -- What wrote it: `LXD 5.0.2`.
  server             TEXT    NOT NULL,
  -- From the copy to the file: the next estimate goes by it.
  took_ms            INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_by_user ON snapshots (user_id, created_at_ms);

-- What the file `.berth` in a snapshot directory must hold: an empty mount point does not pass for a NAS.
CREATE TABLE snapshot_directories (
  path   TEXT PRIMARY KEY,
  marker TEXT NOT NULL
) STRICT;

-- The container that a recover or rebuild replaced, kept for a while under a name no user can have. The newest of a user and node can
-- be had back; a row stays until its instance is gone.
CREATE TABLE kept_containers (
  user_id        INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  node           TEXT    NOT NULL,
  instance       TEXT    NOT NULL,
  template       TEXT    NOT NULL,
  replaced_at_ms INTEGER NOT NULL,
  PRIMARY KEY (node, instance)
) STRICT;

-- `phase` is written before each step that cannot be taken back, `details` (JSON) holds what resolving after a crash needs.
ALTER TABLE operations ADD COLUMN phase TEXT;
ALTER TABLE operations ADD COLUMN details TEXT NOT NULL DEFAULT '{}';
-- Why an interrupted operation could not be resolved when last tried, and what to do.
ALTER TABLE operations ADD COLUMN fault TEXT;
-- An archive is written beside the container's own life: from a copy, while the container may already run again.
ALTER TABLE operations ADD COLUMN lane TEXT NOT NULL DEFAULT 'container' CHECK (lane IN ('container', 'archive'));
DROP INDEX operations_running;
CREATE UNIQUE INDEX operations_running ON operations (user_id, node, lane) WHERE finished_at_ms IS NULL;
