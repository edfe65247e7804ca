-- 1 from when a snapshot's removal was decided until its file is gone: it is listed no more, and removed by whoever comes next.
ALTER TABLE snapshots ADD COLUMN removing INTEGER NOT NULL DEFAULT 0 CHECK (removing IN (0, 1));
