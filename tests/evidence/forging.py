"""What somebody can do who owns the tables and knows how the chain is made."""

from hashlib import sha256

import psycopg

_EVENTS = """
SELECT position, sha256(
         int4send(octet_length(tenant)) || convert_to(tenant, 'UTF8')
         || int4send(16) || uuid_send(stream_id)
         || int4send(8) || int8send(version)
         || int4send(octet_length(topic)) || convert_to(topic, 'UTF8')
         || int4send(octet_length(metadata)) || metadata
         || int4send(octet_length(data)) || data),
       int8send(position) || timestamptz_send(recorded_at)
  FROM event WHERE tenant = %s ORDER BY position
"""


def rechain(url: str, tenant: str) -> None:
    """Make positions dense and the hashes of a tenant's events anew, to the head."""
    with psycopg.connect(url, options="-c search_path=registration") as connection:
        connection.execute(
            "UPDATE event e SET position = -n.place FROM ("
            "  SELECT position, row_number() OVER (ORDER BY position) AS place"
            "    FROM event WHERE tenant = %s) n"
            " WHERE e.tenant = %s AND e.position = n.position",
            (tenant, tenant),
        )
        connection.execute("UPDATE event SET position = -position WHERE tenant = %s", (tenant,))
        before = sha256(b"").digest()
        rows = connection.execute(_EVENTS, (tenant,), binary=True).fetchall()
        hashes = []
        for _, digest, place in rows:
            before = sha256(before + place + digest).digest()
            hashes.append(before)
        connection.execute(
            "UPDATE event e SET hash = n.hash FROM unnest(%s::int8[], %s::bytea[]) AS n (p, hash)"
            " WHERE e.tenant = %s AND e.position = n.p",
            ([row[0] for row in rows], hashes, tenant),
        )
        connection.execute(
            "UPDATE log_head h SET position = e.position, hash = e.hash,"
            " recorded_at = e.recorded_at FROM event e"
            " WHERE h.tenant = %s AND e.tenant = h.tenant AND e.position = %s",
            (tenant, len(rows)),
        )
