CREATE TABLE users (
  id            INTEGER PRIMARY KEY,
  name          TEXT    NOT NULL UNIQUE,
  fixed_port    INTEGER NOT NULL UNIQUE,
  state         TEXT    NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
  created_at_ms INTEGER NOT NULL
) STRICT;

-- A released port rests before it is given to somebody else: old known_hosts lines and scripts still point at it.
CREATE TABLE released_ports (
  port           INTEGER PRIMARY KEY,
  released_at_ms INTEGER NOT NULL
) STRICT;

-- One key belongs to one user: the key alone says who somebody is.
CREATE TABLE keys (
  id                INTEGER PRIMARY KEY,
  user_id           INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  fingerprint       TEXT    NOT NULL UNIQUE,
  type              TEXT    NOT NULL,
  bits              INTEGER NOT NULL,
  blob              TEXT    NOT NULL,
  comment           TEXT    NOT NULL DEFAULT '',
  added_at_ms       INTEGER NOT NULL,
  last_used_at_ms   INTEGER,
  last_used_address TEXT
) STRICT;
CREATE INDEX keys_by_user ON keys (user_id);

CREATE TABLE invites (
  id            INTEGER PRIMARY KEY,
  user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  code_sha256   BLOB    NOT NULL UNIQUE,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  used_at_ms    INTEGER
) STRICT;
CREATE INDEX invites_by_user ON invites (user_id);

-- What berth means a member to have on a node; what is there is asked of LXD.
CREATE TABLE containers (
  user_id           INTEGER NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
  node              TEXT    NOT NULL,
  template          TEXT    NOT NULL,
  ipv4              TEXT    NOT NULL,
  created_at_ms     INTEGER NOT NULL,
  provisioned_at_ms INTEGER,
  should_run        INTEGER NOT NULL DEFAULT 0 CHECK (should_run IN (0, 1)),
  keys_fault        TEXT,
  PRIMARY KEY (user_id, node),
  UNIQUE (node, ipv4)
) STRICT;

-- The SSH host identity of a container: made by berth, so that it survives every rebuild.
CREATE TABLE host_keys (
  user_id     INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  node        TEXT    NOT NULL,
  type        TEXT    NOT NULL,
  public_key  TEXT    NOT NULL,
  private_key TEXT    NOT NULL,
  PRIMARY KEY (user_id, node, type)
) STRICT;

CREATE TABLE operations (
  id             INTEGER PRIMARY KEY,
  user_id        INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  node           TEXT    NOT NULL,
  kind           TEXT    NOT NULL,
  started_at_ms  INTEGER NOT NULL,
  finished_at_ms INTEGER,
  outcome        TEXT
) STRICT;
-- One operation per user and node, whatever process asks.
CREATE UNIQUE INDEX operations_running ON operations (user_id, node) WHERE finished_at_ms IS NULL;

CREATE TABLE audit (
  id          INTEGER PRIMARY KEY,
  at_ms       INTEGER NOT NULL,
  session     TEXT    NOT NULL,
  login       TEXT    NOT NULL,
  user        TEXT,
  fingerprint TEXT,
  address     TEXT    NOT NULL,
  node        TEXT    NOT NULL,
  words       TEXT    NOT NULL,
  reason      TEXT,
  -- Both empty while the command runs, and for ever if berth was killed then.
  exit_code   INTEGER,
  duration_ms INTEGER
) STRICT;
CREATE INDEX audit_by_time ON audit (at_ms);
CREATE INDEX audit_by_user ON audit (user, at_ms);
