-- What reports need and the log does not hold: which devices push, and what was refused to them
-- (a refused mutation leaves no event). Written by push after its answer, outside the append: these
-- figures say how synchronisation goes, and nothing is decided by them.
CREATE TABLE device (
    tenant       text COLLATE "C" NOT NULL,
    client       text COLLATE "C" NOT NULL,
    facility     text COLLATE "C",
    last_push_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, client)
);

-- How many mutations were refused in a quarter of an hour (of UTC; the days of every time zone begin
-- with one), by what push called it (conflict, rejected, blocked)
-- and by code; facility is '' for tokens without one.
CREATE TABLE refused_mutation (
    tenant   text COLLATE "C" NOT NULL,
    quarter  timestamptz NOT NULL,
    facility text COLLATE "C" NOT NULL,
    outcome  text COLLATE "C" NOT NULL,
    code     text COLLATE "C" NOT NULL,
    count    bigint NOT NULL,
    PRIMARY KEY (tenant, quarter, facility, outcome, code)
);

-- What makes the keys of the views for analysts from ids: 244 random bits that the views' readers
-- cannot read. It is kept, so that a row has the same key after a rebuild or a restore.
CREATE TABLE analytics_salt (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    salt     text NOT NULL
);
INSERT INTO analytics_salt (salt) VALUES (gen_random_uuid()::text || gen_random_uuid()::text);

-- The role that BI tools read the views with. Roles belong to the whole server: another database may
-- have made it already, or be making it right now. Where this role may not create roles, an
-- administrator does (docs/reports.md).
DO $$
BEGIN
    IF to_regrole('registration_analyst') IS NULL THEN
        CREATE ROLE registration_analyst NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END
$$;
