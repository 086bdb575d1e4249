-- A queued write that was refused has been settled by a person, who may have sent another one in its
-- place. Should it come again, a month later from a restored backup, it must not be carried out then:
-- the refusal of a queued write (status 1) outlives its time to live. What it says beyond its code,
-- which may be patient data, does not. The refusal of a direct request (status 0) is forgotten.

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
-- g_stream and g_version, one a request, name a stream that the decision looked at without writing
-- to it, and the version it had: where that moved on, the verdict is version_conflict too.
-- p_any_version leaves the order of versions to the caller, as recorders of the eventsourcing
-- library do: what is refused then is only a version that is taken, by the unique constraint.
CREATE OR REPLACE FUNCTION append(
    p_tenant text, p_now timestamptz, p_ttl interval,
    r_key uuid[], r_fingerprint uuid[], r_status int[], r_stream uuid[], r_version int[],
    r_body bytea[], r_events int[], r_claims int[],
    e_stream uuid[], e_version int[], e_topic text[], e_data bytea[], e_metadata bytea[],
    e_digest bytea[],
    c_system text[], c_value text[], c_stream uuid[], c_take boolean[],
    p_any_version boolean DEFAULT false,
    g_stream uuid[] DEFAULT NULL, g_version int[] DEFAULT NULL
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

-- Forgets what refusals of before p_until hold; returns how many it met.
CREATE FUNCTION forget_refusals(p_until timestamptz) RETURNS bigint
LANGUAGE sql
AS $$
    WITH gone AS (
        DELETE FROM outcome WHERE body IS NOT NULL AND status = 0 AND recorded_at <= p_until
        RETURNING 1
    ), stripped AS (
        UPDATE outcome
           SET body = convert_to(json_build_object(
                   'code', convert_from(body, 'UTF8')::json ->> 'code',
                   'detail', 'It was refused before; what else was said is forgotten.',
                   'extra', json_build_object())::text, 'UTF8'),
               status = 2
         WHERE body IS NOT NULL AND status = 1 AND recorded_at <= p_until
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM stripped)
$$;
DROP INDEX outcome_refused;
CREATE INDEX outcome_refused ON outcome (recorded_at) WHERE body IS NOT NULL AND status < 2;
