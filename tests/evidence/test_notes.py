"""Checkpoints as signed notes: what is written is read, and nothing else is taken for one."""

import re
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from registration.evidence.notes import (
    Checkpoint,
    NoteError,
    is_beginning,
    parse,
    pem,
    public_keys,
    sign,
    split,
    verifier_key,
    whole_length,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
AT = datetime(2026, 11, 22, 14, 46, 56, 519993, tzinfo=UTC)
SAID = Checkpoint("default", 4, sha256(b"root").digest(), sha256(b"head").digest(), AT)
SIGNED = sign(SAID, KEY)

tenants = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
checkpoints = st.builds(
    Checkpoint,
    tenants,
    st.integers(1, 10**17),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)


def test_what_a_checkpoint_looks_like() -> None:
    root = b64encode(sha256(b"root").digest()).decode()
    text = (
        f"registration/default\n4\n{root}\n"
        f"head {sha256(b'head').hexdigest()}\nat 2026-11-22T14:46:56.519993Z\n"
    )
    signed, signature = SIGNED.note.split("\n\n")
    assert signed + "\n" == text
    match = re.fullmatch(r"— (\S+) (\S+)\n", signature)
    assert match
    name, encoded = match.groups()
    assert name == "registration/default"
    decoded = b64decode(encoded)
    raw = KEY.public_key().public_bytes_raw()
    assert decoded[:4] == sha256(b"registration/default\n\1" + raw).digest()[:4]
    KEY.public_key().verify(decoded[4:], text.encode())
    assert verifier_key("default", KEY.public_key()) == (
        f"registration/default+{decoded[:4].hex()}+{b64encode(bytes([1]) + raw).decode()}"
    )


@given(st.lists(checkpoints, max_size=4))
def test_what_is_written_is_read(made: list[Checkpoint]) -> None:
    notes = [sign(checkpoint, KEY) for checkpoint in made]
    content = "\n".join(note.note for note in notes).encode()
    found = [parse(note) for note in split(content)]
    assert found == notes
    assert all(note.verified([OTHER.public_key(), KEY.public_key()]) for note in found)
    assert not any(note.verified([OTHER.public_key()]) for note in found)
    assert whole_length(content) == len(content)


@given(st.integers(0), st.integers(0, 255))
def test_no_other_note_is_verified(place: int, value: int) -> None:
    """A byte of it is another one: it cannot be read, or its signature does not hold."""
    note = bytearray(SIGNED.note.rstrip("\n").encode())
    place %= len(note)
    if note[place] == value:
        value ^= 1
    note[place] = value
    try:
        found = parse(bytes(note))
    except NoteError:
        return
    assert not found.verified([KEY.public_key()])


@pytest.mark.parametrize(
    "other",
    [
        replace(SAID, tenant="other"),
        replace(SAID, size=5),
        replace(SAID, root=bytes(32)),
        replace(SAID, head=bytes(32)),
        replace(SAID, at=AT.replace(microsecond=0)),
    ],
)
def test_all_that_it_says_is_signed(other: Checkpoint) -> None:
    signature = SIGNED.note.partition("\n\n")[2].replace("registration/default", other.origin)
    forged = parse(f"{other.text()}\n{signature}".encode())
    assert not forged.verified([KEY.public_key()])


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"nothing",
        SIGNED.note.partition("\n\n")[0].encode(),
        SIGNED.note.replace("registration/default", "elsewhere/default").encode(),
        SIGNED.note.replace("\n4\n", "\n04\n").encode(),
        SIGNED.note.replace("\n4\n", "\n0\n").encode(),
        SIGNED.note.replace("Z\n", "+00:00\n").encode(),
        SIGNED.note.replace("2026-11", "2026-13").encode(),
        SIGNED.note.replace("registration/default\n", "registration/%64efault\n", 1).encode(),
        SIGNED.note.replace("\nhead", "\nmore\nhead").encode(),
        SIGNED.note.replace("— registration/default", "— registration/other").encode(),
        SIGNED.note.encode() + b"unsigned\n",
        SIGNED.note.encode() + b"\xff\n",
        SIGNED.note.encode() + "— a aaaa\n".encode() * 2000,
    ],
)
def test_what_is_no_checkpoint(note: bytes) -> None:
    with pytest.raises(NoteError) as raised:
        parse(note)
    assert "registration" not in str(raised.value)


def test_signatures_of_others_beside_ours() -> None:
    """Witnesses add theirs; what signs it for us is our own key."""
    line = f"— witness.example/w {b64encode(bytes(76)).decode()}\n"
    found = parse((SIGNED.note + line).encode())
    assert found.verified([KEY.public_key()])
    assert found.key_id == SIGNED.key_id
    with pytest.raises(NoteError):
        parse(f"{SAID.text()}\n{line}".encode())


@given(st.integers(0, 3), st.integers(0))
def test_what_a_crash_left_is_cut_where_the_last_whole_one_ends(count: int, cut: int) -> None:
    whole = "\n".join([SIGNED.note] * count).encode()
    torn = (b"\n" if count else b"") + SIGNED.note.encode()
    torn = torn[: cut % len(torn)]
    assert whole_length(whole + torn) == len(whole)


def test_public_keys_of_a_file() -> None:
    both = pem(KEY.public_key()) + pem(OTHER.public_key())
    found = public_keys(both)
    assert [key.public_bytes_raw() for key in found] == [
        KEY.public_key().public_bytes_raw(),
        OTHER.public_key().public_bytes_raw(),
    ]
    assert all(isinstance(key, Ed25519PublicKey) for key in found)
    for content in (b"", b"-----BEGIN PUBLIC KEY-----\nnothing\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(NoteError):
            public_keys(content)


@given(checkpoints)
def test_what_a_crash_leaves_of_a_note_is_its_beginning(checkpoint: Checkpoint) -> None:
    note = sign(checkpoint, KEY).note.encode()
    assert all(is_beginning(note[:length], checkpoint.tenant) for length in range(1, len(note)))
    assert not is_beginning(note, checkpoint.tenant)
    assert not is_beginning(b"", checkpoint.tenant)


@given(checkpoints, st.data())
def test_nothing_else_is_the_beginning_of_a_note(
    checkpoint: Checkpoint, data: st.DataObject
) -> None:
    note = sign(checkpoint, KEY).note.encode()
    place = data.draw(st.integers(0, len(note) - 2))
    put = data.draw(st.sampled_from([b"\0", b"\xff", b"\r", b" "]))
    if note[place : place + 1] != put:
        cut = data.draw(st.integers(place + 1, len(note)))
        spoilt = note[:place] + put + note[place + 1 :]
        assert not is_beginning(spoilt[:cut], checkpoint.tenant)
    assert not is_beginning(note[:-1], checkpoint.tenant + "x")
    assert not is_beginning(note + note[:place], checkpoint.tenant)
