-- Who read what of which patient, when and why. Each process writes its reads in batches, by COPY,
-- beside the requests and not in them. There are ids of patients in it, never names.

-- One row for each patient that an answer showed; patient_id is null where it showed none. Each
-- filter of GET /v1/audit/access is a walk along one index, in the order of time.
CREATE TABLE access_log (
    tenant      text COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL,
    id          uuid NOT NULL,
    actor       text COLLATE "C" NOT NULL,
    client      text COLLATE "C",
    facility    text COLLATE "C",
    operation   text COLLATE "C" NOT NULL,
    patient_id  uuid,
    purpose     text COLLATE "C",
    break_glass text COLLATE "C",
    request_id  text COLLATE "C" NOT NULL,
    status      smallint NOT NULL,
    PRIMARY KEY (tenant, at, id)
);
CREATE INDEX access_log_patient ON access_log (tenant, patient_id, at, id);
CREATE INDEX access_log_actor ON access_log (tenant, actor, at, id);
CREATE INDEX access_log_break_glass ON access_log (tenant, at, id) WHERE break_glass IS NOT NULL;
-- rows come in the order of time, so this tiny index finds what is past its time
CREATE INDEX access_log_age ON access_log USING brin (at);

-- The processes that write. Each holds an advisory lock on its id: a row whose lock is free is what
-- is left of a process that ended without writing its last reads.
CREATE TABLE access_log_writer (
    id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    most     int NOT NULL
);

-- Where reads are missing, and how many: exactly (overflow) or at most (crash).
CREATE TABLE access_log_gap (
    id     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C",  -- null: of any tenant
    since  timestamptz NOT NULL,
    until  timestamptz NOT NULL,
    reason text NOT NULL CHECK (reason IN ('overflow', 'crash')),
    lost   int NOT NULL
);
