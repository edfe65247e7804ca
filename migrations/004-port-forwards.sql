-- Extra ports of a container: `node_port` of the node leads to `container_port`.
CREATE TABLE port_forwards (
  user_id        INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  node           TEXT    NOT NULL,
  container_port INTEGER NOT NULL CHECK (container_port BETWEEN 1 AND 65535),
  node_port      INTEGER NOT NULL,
  opened_at_ms   INTEGER NOT NULL,
  PRIMARY KEY (user_id, node, container_port),
  UNIQUE (node, node_port)
) STRICT;
