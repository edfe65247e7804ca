-- Who a user is in the lab's directory (LDAP). The user name need not be the one there, and outlives a change there.
CREATE TABLE domain_accounts (
  user_id       INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  login         TEXT    NOT NULL COLLATE NOCASE,
  -- entryUUID or objectGUID: tells a renamed person from another one with the old name; empty where there is none.
  entry_id      TEXT    NOT NULL DEFAULT '',
  display_name  TEXT    NOT NULL DEFAULT '',
  email         TEXT    NOT NULL DEFAULT '',
  -- Since when the directory does not let this person in any more.
  gone_at_ms    INTEGER,
  -- Whether that shuts the user out of everything, as `ldap.whenGone` had it.
  shut_out      INTEGER NOT NULL DEFAULT 0 CHECK (shut_out IN (0, 1))
) STRICT;
CREATE INDEX domain_accounts_by_login ON domain_accounts (login);
CREATE UNIQUE INDEX domain_accounts_by_entry ON domain_accounts (entry_id) WHERE entry_id <> '';

CREATE TABLE sign_in_links (
  id            INTEGER PRIMARY KEY,
  user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  secret_sha256 BLOB    NOT NULL UNIQUE,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  used_at_ms    INTEGER
) STRICT;
CREATE INDEX sign_in_links_by_user ON sign_in_links (user_id);

CREATE TABLE web_sessions (
  id            INTEGER PRIMARY KEY,
  user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  secret_sha256 BLOB    NOT NULL UNIQUE,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX web_sessions_by_user ON web_sessions (user_id);

CREATE TABLE access_tokens (
  id                INTEGER PRIMARY KEY,
  user_id           INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name              TEXT    NOT NULL,
  token_sha256      BLOB    NOT NULL UNIQUE,
  scopes            TEXT    NOT NULL,
  created_at_ms     INTEGER NOT NULL,
  expires_at_ms     INTEGER,
  last_used_at_ms   INTEGER,
  last_used_address TEXT
) STRICT;
CREATE INDEX access_tokens_by_user ON access_tokens (user_id);
