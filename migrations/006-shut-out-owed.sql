-- What disabling a user still owes this container, because its node was away: its forwards closed, or the container stopped as well.
ALTER TABLE containers ADD COLUMN shut_out_owed TEXT CHECK (shut_out_owed IN ('close', 'stop'));
