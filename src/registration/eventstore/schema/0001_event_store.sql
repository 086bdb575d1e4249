-- The log, its head, and the two kinds of claim that commit with it.
-- Every key leads with the tenant, so the tables can be distributed by it.

-- One row a tenant. Whoever holds its lock is alone in that tenant's log.
CREATE TABLE log_head (
    tenant      text PRIMARY KEY,
    position    bigint NOT NULL,
    hash        bytea NOT NULL,
    recorded_at timestamptz NOT NULL
);

-- Positions are dense and in commit order: a rollback gives its numbers back with the head row.
-- data and metadata are the exact bytes that were hashed, hence bytea and not jsonb.
CREATE TABLE event (
    tenant      text NOT NULL,
    position    bigint NOT NULL,
    stream_id   uuid NOT NULL,
    version     int NOT NULL,
    topic       text NOT NULL,
    data        bytea NOT NULL,
    metadata    bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    hash        bytea NOT NULL,
    PRIMARY KEY (tenant, position),
    CONSTRAINT event_stream_version UNIQUE (tenant, stream_id, version)
);

-- What became of each idempotency key. The row of an applied request is permanent (it is what
-- refuses a late replay) and needs no body: the answer is the stream as of that version. A refusal
-- keeps its body and goes when its time to live has passed.
-- key = first 16 bytes of sha256 over subject and key; fingerprint = the same over the request.
CREATE TABLE outcome (
    tenant      text NOT NULL,
    key         uuid NOT NULL,
    fingerprint uuid NOT NULL,
    status      smallint NOT NULL,
    stream_id   uuid NOT NULL,
    version     int NOT NULL,
    position    bigint NOT NULL,
    body        bytea,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX outcome_refused ON outcome (recorded_at) WHERE body IS NOT NULL;

-- Who holds an identifier now; written with the events that give and take it.
CREATE TABLE identifier_claim (
    tenant    text NOT NULL,
    system    text NOT NULL,
    value     text NOT NULL,
    stream_id uuid NOT NULL,
    PRIMARY KEY (tenant, system, value)
);

-- Appends one or many requests of one tenant, each with its own verdict:
--   stored               its events, claims and outcome are in
--   replayed             this key has an outcome already; nothing was done
--   key_reused           this key belongs to another request; nothing was done
--   version_conflict     a stream is not at the version that the request was decided on
--   identifier_conflict  an identifier is held (holder says by which stream)
-- r_* has one entry a request, e_* one an event, c_* one a claim, in the order of the requests;
-- r_events and r_claims say how many of them belong to each. The caller keeps two requests on one
-- stream, key or claim out of the same call.
-- Lookups are by full unique key and planned as such even while the tables are empty.
-- p_any_version leaves the order of versions to the caller, as recorders of the eventsourcing
-- library do: what is refused then is only a version that is taken, by the unique constraint.
CREATE FUNCTION append(
    p_tenant text, p_now timestamptz, p_ttl interval,
    r_key uuid[], r_fingerprint uuid[], r_status int[], r_stream uuid[], r_version int[],
    r_body bytea[], r_events int[], r_claims int[],
    e_stream uuid[], e_version int[], e_topic text[], e_data bytea[], e_metadata bytea[],
    e_digest bytea[],
    c_system text[], c_value text[], c_stream uuid[], c_take boolean[],
    p_any_version boolean DEFAULT false
) RETURNS TABLE (
    verdict text, "position" bigint, recorded_at timestamptz,
    status int, stream_id uuid, version int, body bytea, late boolean, holder uuid
)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    head_position bigint;
    head_hash bytea;
    head_time timestamptz;
    now_at timestamptz;
    prior outcome%ROWTYPE;
    current_version int;
    claim_holder uuid;
    next_event int := 1;
    next_claim int := 1;
    first_event int;
    first_claim int;
    accepted boolean;
    -- what goes into the tables
    e_position bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(e_stream)]);
    e_time timestamptz[] := array_fill(NULL::timestamptz, ARRAY[cardinality(e_stream)]);
    e_hash bytea[] := array_fill(NULL::bytea, ARRAY[cardinality(e_stream)]);
    r_position bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(r_stream)]);
    c_accepted boolean[] := array_fill(false, ARRAY[cardinality(c_system)]);
    any_claim boolean := false;
    any_outcome boolean := false;
BEGIN
    SELECT h.position, h.hash, h.recorded_at INTO head_position, head_hash, head_time
      FROM log_head h WHERE h.tenant = p_tenant FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO log_head VALUES (p_tenant, 0, sha256(''), '-infinity')
            ON CONFLICT DO NOTHING;
        SELECT h.position, h.hash, h.recorded_at INTO head_position, head_hash, head_time
          FROM log_head h WHERE h.tenant = p_tenant FOR UPDATE;
    END IF;
    now_at := coalesce(p_now, clock_timestamp());

    FOR i IN 1 .. cardinality(r_stream) LOOP
        first_event := next_event;
        first_claim := next_claim;
        next_event := next_event + r_events[i];
        next_claim := next_claim + r_claims[i];
        verdict := 'stored';
        accepted := true;
        late := false;
        holder := NULL;
        stream_id := r_stream[i];
        version := r_version[i];
        status := r_status[i];
        body := NULL;

        IF r_key[i] IS NOT NULL THEN
            any_outcome := true;
            SELECT * INTO prior FROM outcome o WHERE o.tenant = p_tenant AND o.key = r_key[i];
            IF FOUND THEN
                IF prior.body IS NOT NULL AND prior.recorded_at <= now_at - p_ttl THEN
                    DELETE FROM outcome o WHERE o.tenant = p_tenant AND o.key = r_key[i];
                ELSE
                    accepted := false;
                    verdict := CASE WHEN prior.fingerprint = r_fingerprint[i]
                               THEN 'replayed' ELSE 'key_reused' END;
                    "position" := prior.position;
                    recorded_at := prior.recorded_at;
                    status := prior.status;
                    stream_id := prior.stream_id;
                    version := prior.version;
                    body := prior.body;
                    late := prior.recorded_at <= now_at - p_ttl;
                END IF;
            END IF;
        END IF;

        IF accepted AND NOT p_any_version THEN
            FOR e IN first_event .. next_event - 1 LOOP
                IF e > first_event AND e_stream[e] = e_stream[e - 1] THEN
                    IF e_version[e] <> e_version[e - 1] + 1 THEN
                        RAISE 'versions of one request do not follow each other'
                            USING ERRCODE = 'data_exception';
                    END IF;
                    CONTINUE;
                END IF;
                SELECT v.version INTO current_version FROM event v
                 WHERE v.tenant = p_tenant AND v.stream_id = e_stream[e]
                 ORDER BY v.version DESC LIMIT 1;
                IF coalesce(current_version, 0) <> e_version[e] - 1 THEN
                    accepted := false;
                    verdict := 'version_conflict';
                    "position" := head_position;
                    version := current_version;
                    EXIT;
                END IF;
            END LOOP;
        END IF;

        IF accepted THEN
            FOR c IN first_claim .. next_claim - 1 LOOP
                CONTINUE WHEN NOT c_take[c];
                SELECT k.stream_id INTO claim_holder FROM identifier_claim k
                 WHERE k.tenant = p_tenant AND k.system = c_system[c] AND k.value = c_value[c];
                IF FOUND THEN
                    accepted := false;
                    verdict := 'identifier_conflict';
                    "position" := head_position;
                    holder := claim_holder;
                    EXIT;
                END IF;
            END LOOP;
        END IF;

        IF accepted THEN
            FOR e IN first_event .. next_event - 1 LOOP
                head_position := head_position + 1;
                head_time := greatest(now_at, head_time + interval '1 microsecond');
                head_hash := sha256(
                    head_hash || int8send(head_position) || timestamptz_send(head_time)
                    || e_digest[e]);
                e_position[e] := head_position;
                e_time[e] := head_time;
                e_hash[e] := head_hash;
            END LOOP;
            FOR c IN first_claim .. next_claim - 1 LOOP
                any_claim := true;
                c_accepted[c] := true;
            END LOOP;
            r_position[i] := head_position;
            "position" := head_position;
            -- a request without events (a refusal to remember) has no moment in the log
            recorded_at := CASE WHEN r_events[i] > 0 THEN head_time ELSE now_at END;
        END IF;
        RETURN NEXT;
    END LOOP;

    INSERT INTO event
    SELECT p_tenant, n.position, n.stream_id, n.version, n.topic, n.data, n.metadata,
           n.recorded_at, n.hash
      FROM unnest(e_position, e_stream, e_version, e_topic, e_data, e_metadata, e_time, e_hash)
           AS n (position, stream_id, version, topic, data, metadata, recorded_at, hash)
     WHERE n.position IS NOT NULL;

    IF any_claim THEN
        DELETE FROM identifier_claim k
         USING unnest(c_system, c_value, c_stream, c_take, c_accepted)
               AS n (system, value, stream_id, take, accepted)
         WHERE n.accepted AND NOT n.take AND k.tenant = p_tenant AND k.system = n.system
           AND k.value = n.value AND k.stream_id = n.stream_id;
        INSERT INTO identifier_claim
        SELECT p_tenant, n.system, n.value, n.stream_id
          FROM unnest(c_system, c_value, c_stream, c_take, c_accepted)
               AS n (system, value, stream_id, take, accepted)
         WHERE n.accepted AND n.take;
    END IF;

    IF any_outcome THEN
        INSERT INTO outcome
        SELECT p_tenant, n.key, n.fingerprint, n.status, n.stream_id, n.version, n.position,
               n.body, now_at
          FROM unnest(r_key, r_fingerprint, r_status, r_stream, r_version, r_position, r_body)
               AS n (key, fingerprint, status, stream_id, version, position, body)
         WHERE n.key IS NOT NULL AND n.position IS NOT NULL;
    END IF;

    UPDATE log_head h SET position = head_position, hash = head_hash, recorded_at = head_time
     WHERE h.tenant = p_tenant AND h.position <> head_position;
END
$$;

-- Reads many streams, and the outcomes of many keys, in one round trip. A null stream or key
-- asks for nothing. Rows come by request and version; an outcome's row has no topic, and the
-- stored body in data.
CREATE FUNCTION load(
    r_tenant text[], r_stream uuid[], r_after int[], r_until int[], r_key uuid[]
) RETURNS TABLE (
    request int, "position" bigint, version int, topic text, data bytea, metadata bytea,
    recorded_at timestamptz, hash bytea,
    fingerprint uuid, status int, stream_id uuid
)
LANGUAGE sql STABLE
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
    SELECT r.i::int, o.position, o.version, NULL::text, o.body, NULL::bytea,
           o.recorded_at, NULL::bytea, o.fingerprint, o.status::int, o.stream_id
      FROM unnest(r_tenant, r_key) WITH ORDINALITY AS r (tenant, key, i)
      JOIN outcome o ON o.tenant = r.tenant AND o.key = r.key
    UNION ALL
    SELECT r.i::int, e.position, e.version, e.topic, e.data, e.metadata,
           e.recorded_at, e.hash, NULL::uuid, NULL::int, NULL::uuid
      FROM unnest(r_tenant, r_stream, r_after, r_until) WITH ORDINALITY
           AS r (tenant, stream_id, after, until, i)
      JOIN event e ON e.tenant = r.tenant AND e.stream_id = r.stream_id
       AND e.version > r.after AND e.version <= r.until
     ORDER BY 1, 3
$$;

-- How far each read model is, and what it had to set aside.
CREATE TABLE read_model_position (
    name     text NOT NULL,
    tenant   text NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (name, tenant)
);

CREATE TABLE read_model (
    name        text PRIMARY KEY,
    version     int NOT NULL,
    rebuilt_at  timestamptz NOT NULL
);

CREATE TABLE dead_letter (
    name      text NOT NULL,
    tenant    text NOT NULL,
    stream_id uuid NOT NULL,
    position  bigint NOT NULL,
    version   int NOT NULL,
    topic     text NOT NULL,
    error     text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, tenant, stream_id)
);
