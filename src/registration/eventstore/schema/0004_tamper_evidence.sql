-- What is known of the log beside it. None of it is needed to read or to write the log, and all of
-- it can be made anew: from the log itself, or from the checkpoints outside of this database.

-- Roots of complete subtrees of the Merkle tree over a tenant's log, of every eighth level: level 8
-- holds one for each 256 events, level 16 one for each 65,536, and so on. Those between are made
-- when they are asked for; level 0 is the hash of the event.
CREATE TABLE tree_node (
    tenant text NOT NULL,
    level  smallint NOT NULL,
    index  bigint NOT NULL,
    hash   bytea NOT NULL,
    PRIMARY KEY (tenant, level, index)
);

-- Copies of the signed checkpoints, to be read over HTTP. The ones outside are what counts.
CREATE TABLE log_checkpoint (
    tenant text NOT NULL,
    size   bigint NOT NULL,
    key_id bytea NOT NULL,
    note   text NOT NULL,
    PRIMARY KEY (tenant, size, key_id)
);

-- What the process that signs checkpoints found when it last looked.
-- verified_to: so many events were recomputed before they were signed, each once. reviewed_to: how
-- far the pass that recomputes all of them again is; whole_at: when it last came to the end.
-- reason, with the place: the first link that does not hold. unwritten: why there is no checkpoint.
CREATE TABLE log_watch (
    tenant      text PRIMARY KEY,
    verified_to bigint NOT NULL DEFAULT 0,
    reviewed_to bigint NOT NULL DEFAULT 0,
    whole_at    timestamptz,
    looked_at   timestamptz NOT NULL,
    position    bigint,
    stream_id   uuid,
    version     int,
    reason      text,
    unwritten   text,
    failures    bigint NOT NULL DEFAULT 0
);
