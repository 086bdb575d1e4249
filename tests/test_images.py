"""Portraits: what is made of a picture that anyone may have sent, and what is refused."""

import operator
import resource
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from itertools import product
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from registration import images
from registration.images import LONGEST, MOST_BYTES, ImageRefused, PortraitImage, portrait_of

JPEG, PNG, WEBP = "image/jpeg", "image/png", "image/webp"
FORMATS = {JPEG: "JPEG", PNG: "PNG", WEBP: "WEBP"}
SECRET = "Alice-Example"
ORANGE = (200, 100, 0)


def encoded(image: Image.Image, media_type: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, FORMATS[media_type], **options)
    return out.getvalue()


def plain(media_type: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    return encoded(Image.new("RGB", size, ORANGE), media_type, **options)


def shown(portrait: PortraitImage) -> Image.Image:
    """Decode a portrait, and check on the way that it is what it says."""
    image = Image.open(BytesIO(portrait.data))
    assert (image.format, image.mode, image.size) == (
        "JPEG",
        "RGB",
        (portrait.width, portrait.height),
    )
    assert max(image.size) <= LONGEST
    assert portrait.media_type == JPEG
    assert portrait.content_hash == sha256(portrait.data).hexdigest()
    assert segments(portrait.data) == BASELINE
    return image


def segments(data: bytes) -> list[str]:
    """Return the markers of a JPEG up to its scan, and how it ends."""
    names = {0xE0: "JFIF", 0xDB: "DQT", 0xC0: "SOF0", 0xC4: "DHT", 0xDA: "SOS"}
    found: list[str] = []
    at = 2
    while not found or found[-1] != "SOS":
        _, marker, length = struct.unpack_from(">BBH", data, at)
        found.append(names.get(marker, hex(marker)))
        at += 2 + length
    return [*found, *(["EOI"] if data.find(b"\xff\xd9", at) == len(data) - 2 else ["more"])]


BASELINE = ["JFIF", "DQT", "DQT", "SOF0", "DHT", "DHT", "DHT", "DHT", "SOS", "EOI"]


def color(image: Image.Image) -> tuple[int, int, int]:
    """Return the colour in the middle, in steps of 8: a JPEG is not exact."""
    red, green, blue = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    return round(red / 8) * 8, round(green / 8) * 8, round(blue / 8) * 8


def refused(data: bytes, media_type: str) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        portrait_of(data, media_type)
    assert SECRET not in str(caught.value)
    return caught.value


def chunk(name: bytes, payload: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(payload, zlib.crc32(name)))
    return struct.pack(">I", len(payload)) + name + payload + check


def png(
    width: int,
    height: int,
    depth: int,
    kind: int,
    rows: bytes,
    *extra: tuple[bytes, bytes],
) -> bytes:
    """Build a PNG of a kind that Pillow does not write, or of a size that it would not."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *[chunk(*one) for one in extra],
            chunk(b"IDAT", zlib.compress(rows, 9)),
            chunk(b"IEND", b""),
        ]
    )


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP"
    for name, payload in chunks:
        body += struct.pack("<4sI", name, len(payload)) + payload + b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def after_start(data: bytes, marker: int, payload: bytes) -> bytes:
    """Put a segment at the front of a JPEG."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


def frame_of(data: bytes | bytearray) -> int:
    """Return where the frame header of a JPEG begins, at its marker."""
    return min(at for at in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if at > 0)


PRIMARIES = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}
SWAPPED = PRIMARIES | {b"rXYZ": PRIMARIES[b"gXYZ"], b"gXYZ": PRIMARIES[b"rXYZ"]}


def profile(
    swap: bool = False,
    name: bytes = b"test",
    space: bytes = b"RGB ",
    more: Mapping[bytes, bytes] = MappingProxyType({}),
) -> bytes:
    """Build a colour profile: that of sRGB (with gamma 2.2), red and green swapped if asked."""
    xyz = {**(SWAPPED if swap else PRIMARIES), b"wtpt": (0.9642, 1.0, 0.8249)}
    tags = {
        tag: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(part * 65536) for part in parts))
        for tag, parts in xyz.items()
    }
    gamma = b"curv" + bytes(4) + struct.pack(">IHxx", 1, 563)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC", b"kTRC"), gamma)
    words = name + b"\0"
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", len(words)) + words + bytes(80)
    tags |= more
    index, body = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        index += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x3i48x",
        132 + 12 * len(tags) + len(body),
        b"test",
        0x02400000,
        b"mntr",
        space,
        b"XYZ ",
        b"acsp",
        0xF6D6,
        0x10000,
        0xD32D,
    )
    return header + index + body


# --- What comes out -------------------------------------------------------------------------------

GREY = (128, 128, 128)
HALF_RED = (256, 128, 128)
WHITE = (256, 256, 256)
SAMPLES: dict[str, tuple[str, str, object, dict[str, object], tuple[int, int, int]]] = {
    "JPEG": (JPEG, "RGB", ORANGE, {}, (200, 96, 0)),
    "progressive JPEG": (JPEG, "RGB", ORANGE, {"progressive": True}, (200, 96, 0)),
    "grey JPEG": (JPEG, "L", 128, {}, GREY),
    "CMYK JPEG": (JPEG, "CMYK", (0, 255, 255, 0), {}, (256, 0, 0)),
    "PNG": (PNG, "RGB", ORANGE, {}, (200, 96, 0)),
    "PNG with alpha": (PNG, "RGBA", (255, 0, 0, 128), {}, HALF_RED),
    "PNG with a transparent colour": (PNG, "RGB", ORANGE, {"transparency": ORANGE}, WHITE),
    "black and white PNG": (PNG, "1", 1, {}, WHITE),
    "grey PNG": (PNG, "L", 128, {}, GREY),
    "grey PNG with a transparent grey": (PNG, "L", 9, {"transparency": 9}, WHITE),
    "grey PNG with alpha": (PNG, "LA", (0, 127), {}, GREY),
    "grey PNG of 16 bit": (PNG, "I;16", 0x8000, {}, GREY),
    "PNG with a palette": (PNG, "P", 7, {}, (56, 56, 56)),
    "transparent palette": (PNG, "P", 7, {"transparency": 7}, WHITE),
    "half transparent palette": (PNG, "P", 1, {"transparency": bytes([0, 128])}, (128, 128, 128)),
    "WebP": (WEBP, "RGB", ORANGE, {}, (200, 96, 0)),
    "WebP with alpha": (WEBP, "RGBA", (255, 0, 0, 128), {}, HALF_RED),
    "lossless WebP": (WEBP, "RGB", ORANGE, {"lossless": True}, (200, 96, 0)),
    "lossless WebP with alpha": (WEBP, "RGBA", (255, 0, 0, 128), {"lossless": True}, HALF_RED),
}


def sample(name: str, size: tuple[int, int]) -> tuple[bytes, str]:
    media_type, mode, filled, options, _ = SAMPLES[name]
    image = Image.new(mode, size, filled)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([step * 8 for step in range(32) for _ in range(3)])
        if isinstance(options.get("transparency"), bytes):
            image.putpalette(bytes(6))
    return encoded(image, media_type, **options), media_type


@pytest.mark.parametrize("size", [(40, 30), (4500, 24)])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_of_picture_becomes_a_baseline_jpeg_in_rgb(
    name: str, size: tuple[int, int]
) -> None:
    data, media_type = sample(name, size)

    image = shown(portrait_of(data, media_type))

    assert color(image) == SAMPLES[name][4]


@pytest.mark.parametrize(
    ("depth", "kind", "row", "extra", "expected"),
    [
        (2, 0, b"\xaa\xaa", (), (168, 168, 168)),
        (4, 0, b"\x88" * 4, (), (136, 136, 136)),
        (16, 2, b"\x80\0\x80\0\x80\0" * 8, (), (128, 128, 128)),
        (16, 4, b"\0\0\x80\0" * 8, (), (128, 128, 128)),
        (16, 6, b"\xff\xff\0\0\0\0\x80\0" * 8, (), (256, 128, 128)),
        # A transparent colour in other depths than eight bit is shown.
        (2, 0, b"\xff\xff", ((b"tRNS", b"\0\3"),), (256, 256, 256)),
        (16, 2, bytes(48), ((b"tRNS", bytes(6)),), (0, 0, 0)),
    ],
)
def test_png_of_every_depth_is_read(
    depth: int,
    kind: int,
    row: bytes,
    extra: tuple[tuple[bytes, bytes], ...],
    expected: tuple[int, int, int],
) -> None:
    data = png(8, 8, depth, kind, (b"\0" + row) * 8, *extra)

    assert color(shown(portrait_of(data, PNG))) == expected


@pytest.mark.parametrize(
    ("media_type", "uploaded", "kept"),
    [
        (JPEG, (1, 1), (1, 1)),
        (JPEG, (1024, 700), (1024, 700)),
        (JPEG, (1200, 900), (1024, 768)),
        # What the decoder gives by halving is good enough from 768 pixels on.
        (JPEG, (1200, 1600), (600, 800)),
        (JPEG, (1535, 1000), (1024, 667)),
        (JPEG, (1536, 1000), (768, 500)),
        (JPEG, (4032, 3024), (1008, 756)),
        (JPEG, (1, 65000), (1, 1024)),
        (JPEG, (65500, 3), (1024, 1)),
        (PNG, (1200, 1600), (768, 1024)),
        (PNG, (1, 65000), (1, 1024)),
        (WEBP, (16000, 10), (1024, 1)),
    ],
)
def test_the_longest_side_is_at_most_1024_and_nothing_is_enlarged(
    media_type: str, uploaded: tuple[int, int], kept: tuple[int, int]
) -> None:
    assert shown(portrait_of(plain(media_type, uploaded), media_type)).size == kept


def test_the_whole_picture_is_shown_and_none_of_it_twice() -> None:
    halves = Image.new("RGB", (3001, 2001), "black")
    halves.paste("white", (1501, 0, 3001, 2001))

    for media_type in (JPEG, PNG):
        image = shown(portrait_of(encoded(halves, media_type), media_type))
        middle = image.width // 2

        for left, right, expected in ((0, middle - 4, 0), (middle + 4, image.width, 255)):
            lowest, highest = image.convert("L").crop((left, 0, right, image.height)).getextrema()
            assert (lowest, highest) == pytest.approx((expected, expected), abs=2)


@pytest.mark.parametrize("media_type", FORMATS)
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_upright(media_type: str, orientation: int) -> None:
    corners = Image.new("RGB", (48, 32), "white")
    corners.paste("red", (0, 0, 24, 16))
    corners.paste("blue", (24, 0, 48, 16))
    exif = Image.Exif()
    exif[0x010E] = SECRET
    exif[0x0112] = orientation
    data = encoded(corners, media_type, exif=exif, quality=95)

    image = shown(portrait_of(data, media_type))

    expected = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert image.size == expected.size
    width, height = image.size
    for at in ((4, 4), (width - 4, 4), (4, height - 4), (width - 4, height - 4)):
        assert [round(part / 200) for part in image.getpixel(at)] == [  # type: ignore[union-attr]
            round(part / 200)
            for part in expected.getpixel(at)  # type: ignore[union-attr]
        ]


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01",  # an entry cut off
        b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x04\0\0\0\x01\0\x06\0\0",  # of another type
        b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\xff\xff\0\0",
    ],
)
def test_a_broken_exif_block_does_not_spoil_a_picture(exif: bytes) -> None:
    data = after_start(plain(JPEG), 0xE1, b"Exif\0\0" + exif)

    assert shown(portrait_of(data, JPEG)).size == (40, 30)


def test_no_metadata_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010F] = SECRET
    exif.get_ifd(0x8825)[29] = SECRET  # where it was taken
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()
    icc = profile(name=SECRET.encode())
    for media_type in FORMATS:
        data = plain(media_type, exif=exif, xmp=xmp, icc_profile=icc, comment=SECRET)
        if media_type == JPEG:
            data = after_start(data, 0xED, b"Photoshop 3.0\x008BIM\x04\x04" + SECRET.encode())
            data += SECRET.encode()
        if media_type == PNG:
            data = data[:33] + chunk(b"tEXt", b"Author\0" + SECRET.encode()) + data[33:]
        assert data.count(SECRET.encode()) >= 2

        portrait = portrait_of(data, media_type)

        assert SECRET.encode() not in portrait.data
        assert shown(portrait).info.keys() == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_the_same_bytes_give_the_same_portrait_in_every_thread() -> None:
    noise = encoded(Image.effect_noise((1300, 900), 60).convert("RGB"), JPEG)

    with ThreadPoolExecutor(4) as threads:
        portraits = list(threads.map(lambda _: portrait_of(noise, JPEG), range(8)))

    assert set(portraits) == {portraits[0]}


def test_a_portrait_of_a_portrait_keeps_its_size() -> None:
    first = portrait_of(plain(PNG, (1500, 1500)), PNG)

    second = portrait_of(first.data, first.media_type)

    assert (second.width, second.height) == (first.width, first.height)


# --- Colours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", FORMATS)
def test_the_embedded_profile_is_applied(media_type: str) -> None:
    data = plain(media_type, icc_profile=profile(swap=True))

    red, green, _ = color(shown(portrait_of(data, media_type)))

    assert (red, green) == (96, 200)


def test_a_profile_named_for_srgb_is_taken_at_its_word() -> None:
    data = plain(JPEG, icc_profile=profile(swap=True, name=b"sRGB IEC61966-2.1"))

    assert color(shown(portrait_of(data, JPEG))) == (200, 96, 0)


def test_a_grey_picture_may_have_a_profile_for_colours_or_for_grey() -> None:
    grey = Image.new("L", (8, 8), 128)

    for icc in (profile(swap=True), profile(space=b"GRAY")):
        red, green, blue = color(shown(portrait_of(encoded(grey, JPEG, icc_profile=icc), JPEG)))

        assert red == green == blue
        assert abs(red - 128) <= 8


BROKEN_PROFILES = {
    "noise": b"nonsense" * 40,
    "cut off": profile(swap=True)[:200],
    "for four channels": profile(space=b"CMYK"),
    "for grey": profile(space=b"GRAY"),
    "huge": profile(swap=True) + bytes(images.MOST_PROFILE),
}


@pytest.mark.parametrize("media_type", FORMATS)
@pytest.mark.parametrize("name", BROKEN_PROFILES)
def test_a_profile_that_does_not_fit_is_ignored(media_type: str, name: str) -> None:
    data = plain(media_type, icc_profile=BROKEN_PROFILES[name])

    assert color(shown(portrait_of(data, media_type))) == (200, 96, 0)


def table(grid: int, inks: bool = False, entries: int = 2) -> bytes:
    """Build a table for RGB, or for CMYK inks, with red and green swapped.

    It has the numbers for a grid of two points and curves of two, whatever it says.
    """
    inputs = 4 if inks else 3
    parts = bytearray(b"mft2" + bytes(4) + bytes([inputs, 3, grid, 0]))
    parts += struct.pack(">9i", *(65536 * (at in (0, 4, 8)) for at in range(9)))
    parts += struct.pack(">HH", entries, entries)
    curve = struct.pack(">HH", 0, 65535)
    parts += curve * inputs
    for point in product((0, 1), repeat=inputs):
        light = [(1 - ink) * (1 - point[3]) for ink in point[:3]] if inks else point
        xyz = zip(SWAPPED[b"rXYZ"], SWAPPED[b"gXYZ"], SWAPPED[b"bXYZ"], strict=True)
        sums = (sum(map(operator.mul, light, primaries)) for primaries in xyz)
        parts += struct.pack(">3H", *(round(part * 32768) for part in sums))
    return bytes(parts + curve * 3)


@pytest.mark.parametrize(
    ("mode", "filled", "space"),
    [("RGB", (255, 0, 0), b"RGB "), ("CMYK", (0, 255, 255, 0), b"CMYK")],
)
def test_a_profile_may_be_a_table(mode: str, filled: tuple[int, ...], space: bytes) -> None:
    icc = profile(space=space, more={b"A2B0": table(2, inks=mode == "CMYK")})
    data = encoded(Image.new(mode, (8, 8), filled), JPEG, icc_profile=icc)

    assert color(shown(portrait_of(data, JPEG))) == (0, 256, 0)


def test_what_a_profile_says_of_itself_is_not_believed() -> None:
    steps = 10_000
    matrix = b"matf" + bytes(4) + struct.pack(">HH12f", 3, 3, *[0.3] * 12)
    chain = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, steps)
    chain += struct.pack(">II", 16 + 8 * steps, len(matrix)) * steps + matrix
    curve = struct.pack(">4s4xI", b"curv", 0x7FFF)
    names = struct.pack(">4s4xII", b"mluc", 0x1000000, 12)
    begun, held = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for more in (
        {b"D2B0": chain},
        {b"A2B0": chain},
        {b"A2B0": table(255)},
        {b"A2B0": table(2, entries=4096)},
        {b"A2B0": b"mAB " + bytes(60)},
        {b"desc": names},
        dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    ):
        data = plain(JPEG, icc_profile=profile(more=more))

        assert color(shown(portrait_of(data, JPEG))) == (200, 96, 0)

    assert time.thread_time() - begun < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 20_000


def test_a_compressed_profile_may_be_damaged() -> None:
    data = plain(PNG)

    for payload in (b"", b"name", b"name\0\0", b"name\0\0nonsense"):
        damaged = data[:33] + chunk(b"iCCP", payload) + data[33:]

        assert color(shown(portrait_of(damaged, PNG))) == (200, 96, 0)


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", FORMATS)
@pytest.mark.parametrize("actual", FORMATS)
def test_the_media_type_has_to_be_what_the_bytes_are(stated: str, actual: str) -> None:
    if stated == actual:
        shown(portrait_of(plain(actual), stated))
    else:
        assert not refused(plain(actual), stated).too_large


@pytest.mark.parametrize("media_type", ["", "image/gif", "image/svg+xml", "text/html", "IMAGE/PNG"])
def test_other_media_types_are_refused(media_type: str) -> None:
    out = BytesIO()
    Image.new("RGB", (8, 8)).save(out, "GIF")

    assert not refused(out.getvalue(), media_type).too_large


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "ICO", "EPS"])
def test_no_other_decoder_is_ever_tried(format_: str) -> None:
    out = BytesIO()
    Image.new("RGB", (64, 64)).save(out, format_)

    for media_type in FORMATS:
        refused(out.getvalue(), media_type)


def test_two_mebibytes_are_accepted_and_not_a_byte_more() -> None:
    most = plain(JPEG).ljust(MOST_BYTES, b"\0")

    shown(portrait_of(most, JPEG))

    assert refused(most + b"\0", JPEG).too_large


def header_of_jpeg(width: int, height: int, marker: int = 0xC0, sampling: int = 0x11) -> bytes:
    """Return a small JPEG that claims to be large."""
    data = bytearray(plain(JPEG, (8, 8), subsampling=0, progressive=marker == 0xC2))
    at = frame_of(data)
    data[at + 1] = marker
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    data[at + 11] = sampling
    return bytes(data)


def webp_canvas(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff((b"VP8X", bytes(4) + canvas), (b"VP8 ", plain(WEBP)[20:]))


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (png(30_000, 30_000, 8, 2, bytes(3 * 2**20)), PNG),
        (png(2**31 - 1, 2**31 - 1, 8, 0, b""), PNG),
        # Within the pixels, but not within the memory: with alpha, with a transparent colour.
        (png(3000, 3000, 8, 6, b""), PNG),
        (png(3000, 3000, 8, 2, b"", (b"tRNS", bytes(6))), PNG),
        (png(5000, 4000, 8, 2, b""), PNG),
        (header_of_jpeg(65_535, 65_535), JPEG),
        (header_of_jpeg(5001, 5000), JPEG),
        # Held as coefficients, of which there may be more than there are pixels.
        (header_of_jpeg(5000, 4999, 0xC2), JPEG),
        (webp_canvas(2**24, 2**24), WEBP),
        (webp_canvas(3000, 2000), WEBP),
        (riff((b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14))), WEBP),
        (riff((b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383))), WEBP),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(
    data: bytes, media_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_decode", pytest.fail)

    assert refused(data, media_type).too_large


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (png(0, 8, 8, 2, b""), PNG),
        (png(8, 0, 8, 2, b""), PNG),
        (header_of_jpeg(0, 8), JPEG),
        (header_of_jpeg(8, 0), JPEG),
        (riff((b"VP8 ", b"\0\0\0\x9d\x01\x2a" + bytes(4))), WEBP),
    ],
)
def test_a_picture_without_pixels_is_refused(data: bytes, media_type: str) -> None:
    assert not refused(data, media_type).too_large


def test_what_is_too_large_for_other_kinds_may_be_a_usual_jpeg() -> None:
    image = shown(portrait_of(plain(JPEG, (5712, 4284)), JPEG))

    assert image.size == (1024, 768)


@pytest.mark.parametrize("media_type", FORMATS)
def test_an_animation_is_refused(media_type: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    if media_type == JPEG:
        out = BytesIO()
        frames[0].save(out, "MPO", save_all=True, append_images=frames[1:])

        # Further pictures behind a JPEG are no animation: the first is the picture.
        assert color(shown(portrait_of(out.getvalue(), JPEG))) == (256, 0, 0)
    else:
        data = encoded(frames[0], media_type, save_all=True, append_images=frames[1:])

        assert str(refused(data, media_type)) == "The picture is animated."


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused() -> None:
    data = plain(JPEG, progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]

    shown(portrait_of(data[:-2] + scan * 40 + data[-2:], JPEG))

    refused(data[:-2] + scan * 50 + data[-2:], JPEG)


@pytest.mark.parametrize(
    "marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF], ids=hex
)
def test_unusual_ways_of_coding_a_jpeg_are_refused(marker: int) -> None:
    refused(header_of_jpeg(8, 8, marker), JPEG)


def test_a_jpeg_has_one_frame_and_something_in_it() -> None:
    data = plain(JPEG)
    at = frame_of(data)
    frame = data[at : at + 2 + struct.unpack_from(">H", data, at + 2)[0]]

    for damaged in (
        data.replace(frame, frame * 2),
        data.replace(frame, b""),
        header_of_jpeg(8, 8, 0xC2, sampling=0x00),
        header_of_jpeg(8, 8, 0xC2, sampling=0x01),
        data.replace(frame, frame[:9] + b"\0"),
        data[: data.index(b"\xff\xda")],
        data[: data.index(b"\xff\xda")] + b"\xff\xda\0\2",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
    ):
        refused(damaged, JPEG)


def test_junk_between_the_segments_of_a_jpeg_is_skipped() -> None:
    data = plain(JPEG)

    junk = data[:2] + b"\xff\xff\xff\0junk\xff\x01\xff\xd0\xff\xff" + data[2:]

    assert color(shown(portrait_of(junk, JPEG))) == (200, 96, 0)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (after_start(plain(JPEG), 0xE1, b"Exif\0\0"), JPEG),
        (plain(PNG)[:33] + chunk(b"noTe", b"") + plain(PNG)[33:], PNG),
        (riff((b"NOTE", b"")), WEBP),
    ],
)
def test_a_picture_of_very_many_parts_is_refused_in_a_moment(data: bytes, media_type: str) -> None:
    part = {JPEG: (2, 12), PNG: (33, 45), WEBP: (12, 20)}[media_type]
    start = plain(WEBP)[:20] if media_type == WEBP else b""
    many = start + data[: part[0] * (not start)] + data[slice(*part)] * 150_000 + data[part[1] :]
    begun = time.thread_time()

    refused(many, media_type)

    assert time.thread_time() - begun < 1


def test_text_that_unpacks_to_gigabytes_is_never_unpacked() -> None:
    data = plain(PNG)
    wide = zlib.compress(("\U0001f600" + "a" * 2**20).encode(), 9)
    text = chunk(b"iTXt", b"key\0\1\0\0\0" + wide) * 100
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**26), 9))

    for extra in (text, bomb, chunk(b"iCCP", b"key\0\0" + zlib.compress(bytes(2**26), 9))):
        begun = time.thread_time()

        assert color(shown(portrait_of(data[:33] + extra + data[33:], PNG))) == (200, 96, 0)
        assert time.thread_time() - begun < 0.5


def test_a_png_in_many_chunks_is_one_picture() -> None:
    data = plain(PNG, (64, 64))
    at = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, at - 4)
    pixels = data[at + 4 : at + 4 + length]
    pieces = b"".join(
        [chunk(b"IDAT", pixels[i : i + 1]) + chunk(b"IDAT", b"") for i in range(length)]
    )

    split = data[: at - 4] + pieces + data[at + 8 + length :]

    assert portrait_of(split, PNG) == portrait_of(data, PNG)


def test_a_png_whose_checksum_is_wrong_is_refused() -> None:
    data = bytearray(plain(PNG))
    data[data.index(b"IDAT") - 5] ^= 1  # the last of the header's

    refused(bytes(data), PNG)


@pytest.mark.parametrize("media_type", FORMATS)
def test_a_truncated_picture_is_refused(media_type: str) -> None:
    noise = Image.effect_noise((64, 64), 60).convert("RGB")
    data = encoded(noise, media_type)

    for length in range(0, len(data) - 16, len(data) // 40):
        assert not refused(data[:length], media_type).too_large


# --- Anything at all ------------------------------------------------------------------------------


def portrait_or_refusal(data: bytes, media_type: str) -> None:
    """No third thing happens, whatever the bytes; warnings are errors here."""
    try:
        portrait = portrait_of(data, media_type)
    except ImageRefused as refusal:
        assert refusal.__suppress_context__ or refusal.__context__ is None  # noqa: PT017
    else:
        shown(portrait)


MAGIC = {
    JPEG: [b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\x11\x08", b"\xff\xd8\xff\xda"],
    PNG: [b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"],
    WEBP: [b"RIFF\0\1\0\0WEBPVP8 ", b"RIFF\0\1\0\0WEBPVP8L", b"RIFF\0\1\0\0WEBPVP8X"],
}
MEDIA_TYPES = st.sampled_from(list(FORMATS))


@given(
    MEDIA_TYPES.flatmap(lambda kind: st.tuples(st.just(kind), st.sampled_from(MAGIC[kind]))),
    st.binary(),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_portrait_or_a_refusal(start: tuple[str, bytes], rest: bytes) -> None:
    media_type, magic = start

    portrait_or_refusal(magic + rest, media_type)


def rich(name: str) -> tuple[bytes, str]:
    """Return a sample with everything in it that is read: EXIF and a profile."""
    media_type, mode, filled, options, _ = SAMPLES[name]
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, (40, 30), filled)  # type: ignore[arg-type]
    return encoded(image, media_type, exif=exif, icc_profile=profile(), **options), media_type


RICH = [rich(name) for name in SAMPLES]


def mended(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that damage reaches the decoder."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        out += chunk(name, data[at + 8 : at + 8 + length])
        at += 12 + length
    return out


Change = Callable[[bytes], bytes]


def overwrite(at: int, new: bytes) -> Change:
    return lambda data: data[:at] + new + data[at + len(new) :]


def insert(at: int, new: bytes) -> Change:
    return lambda data: data[:at] + new + data[at:]


def remove(at: int, length: int) -> Change:
    return lambda data: data[:at] + data[at + length :]


PLACES = st.integers(0, 900)
CHANGES = st.lists(
    st.one_of(
        st.builds(overwrite, PLACES, st.binary(min_size=1, max_size=4)),
        st.builds(insert, PLACES, st.binary(min_size=1, max_size=8)),
        st.builds(remove, PLACES, st.integers(1, 40)),
    ),
    min_size=1,
    max_size=5,
)


@given(st.sampled_from(RICH), CHANGES, st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_damage_gives_a_portrait_or_a_refusal(
    picture: tuple[bytes, str], changes: list[Change], mend: bool
) -> None:
    data, media_type = picture
    for change in changes:
        data = change(data)

    portrait_or_refusal(mended(data) if mend and media_type == PNG else data, media_type)


@given(st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_profile_gives_a_portrait(changes: list[tuple[int, bytes]]) -> None:
    icc = profile(swap=True)
    for at, new in changes:
        icc = overwrite(at % len(icc), new)(icc)

    shown(portrait_of(plain(JPEG, (8, 8), icc_profile=icc), JPEG))


@pytest.mark.parametrize("error", [MemoryError, TypeError, KeyboardInterrupt])
def test_what_is_not_the_fault_of_the_picture_is_not_called_so(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(error):
        portrait_of(plain(PNG), PNG)


def test_the_settings_of_pillow_are_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS

    portrait_of(plain(PNG), PNG)

    assert before == Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert before > images.MOST_PIXELS, "otherwise Pillow would warn"
