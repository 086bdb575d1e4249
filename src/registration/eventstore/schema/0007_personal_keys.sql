-- Events about people are sealed, each with the keys of those whom it is about; whoever is erased
-- loses the key. How a text is sealed: registration/eventstore/sealing.py.

-- The key of each person, wrapped by a master key that is not in this database. An empty one says
-- that the person was registered before events were sealed.
CREATE TABLE personal_key (
    tenant  text NOT NULL,
    id      uuid NOT NULL,
    wrapped bytea NOT NULL,
    PRIMARY KEY (tenant, id)
);
ALTER TABLE personal_key ALTER COLUMN wrapped SET STORAGE PLAIN;
INSERT INTO personal_key
SELECT tenant, stream_id, '' FROM event WHERE topic = 'patient.registered';

-- The names of the master keys that wrapped them: a process that was given none of these must not
-- start to write.
CREATE TABLE master_key (
    id      bytea PRIMARY KEY,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Returns the nth person that a text is sealed to; null where there are not as many. It looks at the
-- first bytes alone: the rest of a long text stays where it is, compressed.
CREATE FUNCTION sealed_to(data bytea, n int) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN substring(data FROM 1 FOR 2) BETWEEN set_byte('\x0000', 1, n) AND '\x00ff'
             AND octet_length(data) >= 16 * n + 2
        THEN encode(substring(data FROM 16 * n - 13 FOR 16), 'hex')::uuid
    END
$$;

-- Returns the public JSON of a text, sealed or not.
CREATE FUNCTION public_part(data bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT convert_from(
        CASE WHEN sealed_to(data, 1) IS NULL THEN data
             ELSE substring(shown FROM 1 FOR position('\x00'::bytea IN shown) - 1) END, 'UTF8')
      FROM substring(data FROM CASE WHEN sealed_to(data, 1) IS NULL THEN 1
                                    ELSE 16 * get_byte(data, 1) + 3 END) AS shown
$$;

-- Returns the wrapped keys to a text, one after the other; null where one is gone, or none needed.
-- Each is a subquery, whose only plan is a lookup by the full key. A join is planned as a scan of
-- the tenant's keys while the table is empty, and that plan outlives its first thousands of rows.
CREATE FUNCTION key_to(p_tenant text, data bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
SET enable_seqscan = off
AS $$
    SELECT CASE WHEN count(k.wrapped) = count(*) THEN string_agg(k.wrapped, '' ORDER BY k.n) END
      FROM (SELECT n, (SELECT k.wrapped FROM personal_key k
                        WHERE k.tenant = p_tenant AND k.id = sealed_to(data, n))
              FROM generate_series(1, CASE WHEN sealed_to(data, 1) IS NULL THEN 0
                                           ELSE get_byte(data, 1) END) AS n) AS k (n, wrapped)
$$;

-- The log, each event with what it takes to open it: read in one query, so that nobody opens an
-- event with a key that is no more.
CREATE VIEW readable_event WITH (security_invoker = true) AS
SELECT e.tenant, e.position, e.stream_id, e.version, e.topic, e.data, e.metadata, e.recorded_at,
       e.hash,
       CASE WHEN sealed_to(e.data, 2) IS NULL
            THEN (SELECT k.wrapped FROM personal_key k
                   WHERE k.tenant = e.tenant AND k.id = sealed_to(e.data, 1))
            ELSE (SELECT k.wrapped FROM personal_key k
                   WHERE k.tenant = e.tenant AND k.id = sealed_to(e.data, 1))
              || (SELECT k.wrapped FROM personal_key k
                   WHERE k.tenant = e.tenant AND k.id = sealed_to(e.data, 2)) END AS key
  FROM event e;

DROP FUNCTION append(
    text, timestamptz, interval,
    uuid[], uuid[], int[], uuid[], int[], bytea[], int[], int[],
    uuid[], int[], text[], bytea[], bytea[], bytea[],
    text[], text[], uuid[], boolean[], boolean, uuid[], int[]
);

-- Appends one or many requests of one tenant, each with its own verdict:
--   stored               its events, claims and outcome are in
--   replayed             this key has an outcome already; nothing was done
--   key_reused           this key belongs to another request; nothing was done
--   version_conflict     a stream is not at the version that the request was decided on, or
--                        somebody whom an event is about has been erased since
--   identifier_conflict  an identifier is held (holder says by which stream)
-- r_* has one entry a request, e_* one an event, c_* one a claim, in the order of the requests;
-- r_events and r_claims say how many of them belong to each. The caller keeps two requests on one
-- stream, key or claim out of the same call.
-- Lookups are by full unique key and planned as such even while the tables are empty.
-- g_stream and g_version, one a request, name a stream that the decision looked at without writing
-- to it, and the version it had: where that moved on, the verdict is version_conflict too.
-- n_key, one a request, is the new wrapped key of the person that r_stream is. body_key is the key to
-- the body of a refusal that is replayed.
-- p_any_version leaves the order of versions to the caller, as recorders of the eventsourcing
-- library do: what is refused then is only a version that is taken, by the unique constraint.
CREATE FUNCTION append(
    p_tenant text, p_now timestamptz, p_ttl interval,
    r_key uuid[], r_fingerprint uuid[], r_status int[], r_stream uuid[], r_version int[],
    r_body bytea[], r_events int[], r_claims int[],
    e_stream uuid[], e_version int[], e_topic text[], e_data bytea[], e_metadata bytea[],
    e_digest bytea[],
    c_system text[], c_value text[], c_stream uuid[], c_take boolean[],
    p_any_version boolean DEFAULT false,
    g_stream uuid[] DEFAULT NULL, g_version int[] DEFAULT NULL, n_key bytea[] DEFAULT NULL
) RETURNS TABLE (
    verdict text, "position" bigint, recorded_at timestamptz,
    status int, stream_id uuid, version int, body bytea, late boolean, holder uuid, body_key bytea
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
    -- whom each event is about, whether a key of theirs is gone, and who was erased by an earlier
    -- event of this call
    e_one uuid[];
    e_other uuid[];
    e_keyless boolean[];
    erased uuid[] := '{}';
    any_key boolean := false;
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
    -- all at once, and good until the end: only who holds the head of the log adds or deletes keys
    SELECT array_agg(n.one ORDER BY n.e), array_agg(n.other ORDER BY n.e),
           array_agg(
               n.one IS NOT NULL AND (SELECT k.id FROM personal_key k
                                       WHERE k.tenant = p_tenant AND k.id = n.one) IS NULL
               OR n.other IS NOT NULL AND (SELECT k.id FROM personal_key k
                                            WHERE k.tenant = p_tenant AND k.id = n.other) IS NULL
               ORDER BY n.e)
      INTO e_one, e_other, e_keyless
      FROM (SELECT e, sealed_to(data, 1), sealed_to(data, 2)
              FROM unnest(e_data) WITH ORDINALITY AS d (data, e)) AS n (e, one, other);

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
        body_key := NULL;

        IF r_key[i] IS NOT NULL THEN
            any_outcome := true;
            SELECT * INTO prior FROM outcome o WHERE o.tenant = p_tenant AND o.key = r_key[i];
            IF FOUND THEN
                IF prior.body IS NOT NULL AND prior.status = 0
                   AND prior.recorded_at <= now_at - p_ttl THEN
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
                    body_key := key_to(p_tenant, prior.body);
                    late := prior.recorded_at <= now_at - p_ttl;
                END IF;
            END IF;
        END IF;

        IF accepted AND g_stream[i] IS NOT NULL THEN
            SELECT v.version INTO current_version FROM event v
             WHERE v.tenant = p_tenant AND v.stream_id = g_stream[i]
             ORDER BY v.version DESC LIMIT 1;
            IF coalesce(current_version, 0) <> g_version[i] THEN
                accepted := false;
                verdict := 'version_conflict';
                "position" := head_position;
                version := current_version;
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
            FOR e IN first_event .. next_event - 1 LOOP
                CONTINUE WHEN n_key[i] IS NOT NULL AND e_one[e] = r_stream[i];
                IF e_keyless[e] OR e_one[e] = ANY(erased) OR e_other[e] = ANY(erased)
                THEN
                    accepted := false;
                    verdict := 'version_conflict';
                    "position" := head_position;
                    version := NULL;
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
                IF e_topic[e] = 'patient.erased' THEN
                    erased := erased || e_stream[e];
                END IF;
            END LOOP;
            any_key := any_key OR n_key[i] IS NOT NULL;
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

    IF any_key THEN
        INSERT INTO personal_key
        SELECT p_tenant, n.stream_id, n.wrapped
          FROM unnest(r_stream, n_key, r_position) AS n (stream_id, wrapped, position)
         WHERE n.wrapped IS NOT NULL AND n.position IS NOT NULL;
    END IF;

    IF erased <> '{}' THEN
        -- in the transaction that says so: nobody is erased with a key still there
        DELETE FROM personal_key k WHERE k.tenant = p_tenant AND k.id = ANY(erased);
        DELETE FROM portrait_image p WHERE p.tenant = p_tenant AND p.patient_id = ANY(erased);
    END IF;

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
DROP FUNCTION load(text[], uuid[], int[], int[], uuid[]);
CREATE FUNCTION load(
    r_tenant text[], r_stream uuid[], r_after int[], r_until int[], r_key uuid[]
) RETURNS TABLE (
    request int, "position" bigint, version int, topic text, data bytea, metadata bytea,
    recorded_at timestamptz, hash bytea, key bytea,
    fingerprint uuid, status int, stream_id uuid
)
LANGUAGE sql STABLE
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
    SELECT r.i::int, o.position, o.version, NULL::text, o.body, NULL::bytea,
           o.recorded_at, NULL::bytea,
           CASE WHEN o.body IS NOT NULL THEN key_to(o.tenant, o.body) END,
           o.fingerprint, o.status::int, o.stream_id
      FROM unnest(r_tenant, r_key) WITH ORDINALITY AS r (tenant, key, i)
      JOIN outcome o ON o.tenant = r.tenant AND o.key = r.key
    UNION ALL
    SELECT r.i::int, e.position, e.version, e.topic, e.data, e.metadata,
           e.recorded_at, e.hash, e.key, NULL::uuid, NULL::int, NULL::uuid
      FROM unnest(r_tenant, r_stream, r_after, r_until) WITH ORDINALITY
           AS r (tenant, stream_id, after, until, i)
      JOIN readable_event e ON e.tenant = r.tenant AND e.stream_id = r.stream_id
       AND e.version > r.after AND e.version <= r.until
     ORDER BY 1, 3
$$;

CREATE INDEX portrait_image_patient ON portrait_image (tenant, patient_id);

-- Forgets what refusals of before p_until hold; returns how many it met.
CREATE OR REPLACE FUNCTION forget_refusals(p_until timestamptz) RETURNS bigint
LANGUAGE sql
AS $$
    WITH gone AS (
        DELETE FROM outcome WHERE body IS NOT NULL AND status = 0 AND recorded_at <= p_until
        RETURNING 1
    ), stripped AS (
        UPDATE outcome
           SET body = convert_to(json_build_object(
                   'code', public_part(body)::json ->> 'code',
                   'detail', 'It was refused before; what else was said is forgotten.',
                   'extra', json_build_object())::text, 'UTF8'),
               status = 2
         WHERE body IS NOT NULL AND status = 1 AND recorded_at <= p_until
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM stripped)
$$;
