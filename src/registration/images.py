"""A portrait made of an uploaded picture: always a small sRGB JPEG, and nothing beside its pixels.

The bytes come from anyone, so a picture is read in two steps. The first reads only the container
(JPEG segments, PNG chunks, WebP chunks): how large the picture is, what decoding would hold in
memory, which way is up, which colours it is in. Pillow then sees what is left when everything but
the coded pixels is taken out, so no text, no EXIF and no animation ever reaches it, and it tries
the one decoder that the media type names.

What becomes of pictures that are more than pixels:

- animated PNG and WebP are refused: a portrait is a still. Of a JPEG with further pictures behind
  it (MPO, "motion photo") the first is taken, as every viewer does;
- transparency becomes white. One colour declared transparent counts in 8 bit a channel, as
  optimisers write it; in other depths the colour is shown;
- colours are converted to sRGB by the embedded profile, without one they are taken for sRGB; a
  profile that does not fit is ignored, and so are PNG's ``gAMA`` and ``cHRM``;
- the orientation is the one of EXIF; XMP is not read.

Sources: ITU-T T.81 (JPEG), JFIF 1.02, Exif 2.32, PNG third edition, the WebP container (RFC 9649),
ICC.1:2022.
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from io import BytesIO
from struct import error as StructError  # noqa: N812 (a class, whatever its module calls it)
from struct import iter_unpack, pack, unpack_from
from typing import BinaryIO, NamedTuple

# Otherwise Pillow would import all of its formats when it meets its first WebP.
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

MOST_BYTES = 2 * 1024 * 1024
"""The largest upload."""

MOST_PIXELS = 25_000_000
"""The largest picture: what telephones take in one shot (5712 by 4284) is just within it."""

MOST_MEMORY = 80 * 1024 * 1024
"""What one picture may hold at its peak, in bytes: two at a time stay well below 200 MB.

A usual JPEG is decoded row by row and at a fraction of its size: 25 MB, however large. A
progressive one is held as coefficients (24 megapixels fit with colours at half the resolution, as
is usual, and 12 without), a PNG as pixels (12 megapixels, 7 with transparency), a WebP four times
over, by libwebp and by Pillow (5 megapixels).
"""

MOST_PARTS = 4096
"""How many segments or chunks a file may have before its picture ends: they are read in Python."""

MOST_SCANS = 50
"""How often a JPEG may go over its pixels. Encoders use 3 to 20; a file has room for 100,000, each
of which costs milliseconds."""

MOST_PROFILE = 1024 * 1024
"""The largest colour profile that is looked at; those for print have half of it."""

LONGEST = 1024
"""The longest side of a portrait, in pixels; smaller pictures keep their size."""

ENOUGH = 768
"""A JPEG that its decoder can shrink to between this and :data:`LONGEST` is not resized further.

Decoders halve for nearly nothing, while resizing is two thirds of the work otherwise.
"""

MEDIA_TYPE = "image/jpeg"
"""What every portrait is, whatever was uploaded."""

_QUALITY = 85

# What the decoders raise for bytes that are no picture. Not MemoryError: what a picture may need
# is limited beforehand, so lack of memory is not the picture's fault.
_UNDECODABLE = (
    EOFError,
    IndexError,
    OSError,
    StructError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)


class ImageRefused(Exception):
    """No portrait can be made of these bytes; the message says why, without quoting them."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class PortraitImage(NamedTuple):
    """A portrait as it is kept and shown; ``content_hash`` is sha256 over ``data``, in hex."""

    data: bytes
    media_type: str
    width: int
    height: int
    content_hash: str


class _Picture(NamedTuple):
    """What a container says about its picture.

    ``memory`` is what decoding will hold at its peak, as measured, ``coded`` what the decoder gets
    to see.
    """

    size: tuple[int, int]
    memory: int
    coded: bytes
    exif: bytes
    profile: bytes


def portrait_of(data: bytes, media_type: str) -> PortraitImage:
    """Return the portrait of an uploaded JPEG, PNG or WebP.

    It is a baseline JPEG in sRGB, upright, opaque, at most :data:`LONGEST` pixels a side, without
    metadata. The same bytes always give the same portrait (as long as Pillow is the same).

    Raises :class:`ImageRefused` for anything else, and for what is too large to be decoded. Takes
    milliseconds, mostly without the lock of the interpreter, so that threads run side by side.
    """
    if len(data) > MOST_BYTES:
        raise ImageRefused("The picture has more than 2 MiB.", too_large=True)
    kind = _KINDS.get(media_type)
    if kind is None:
        raise ImageRefused("A portrait is uploaded as JPEG, PNG or WebP.")
    if not kind.begins(data):
        raise ImageRefused("The picture is not of the media type that was stated.")
    try:
        picture = kind.read(data)
        _check_size(picture)
        pixels = _fitted(*_decode(picture, kind.decoder), picture.size)
    except _UNDECODABLE:
        # Without the cause: decoders quote what they stumble over.
        raise ImageRefused("The picture is damaged, or not of a usual kind.") from None
    return _encode(_upright(_in_srgb(_opaque(pixels), picture.profile), picture.exif))


def _check_size(picture: _Picture) -> None:
    width, height = picture.size
    if not width or not height:
        raise ImageRefused("The picture has no pixels.")
    if width * height > MOST_PIXELS or picture.memory > MOST_MEMORY:
        raise ImageRefused("The picture has too many pixels.", too_large=True)


_Box = tuple[float, float, float, float]


def _decode(picture: _Picture, decoder: str) -> tuple[Image.Image, _Box | None]:
    """Return the pixels, and which part of them is the picture where a JPEG was shrunk."""
    with Image.open(BytesIO(picture.coded), formats=[decoder]) as image:
        if image.size != picture.size:
            raise ImageRefused("The picture is damaged.")
        longest = max(image.size)
        drafted = None
        if longest > LONGEST:
            drafted = image.draft(None, _shrunk(image.size, 1 / (longest // ENOUGH)))
        image.load()
        return _resizable(image), drafted[1] if drafted else None


def _fitted(image: Image.Image, box: _Box | None, size: tuple[int, int]) -> Image.Image:
    if max(image.size) <= LONGEST:
        return image
    return image.resize(
        _shrunk(size, LONGEST / max(size)),
        # Half the work of BICUBIC, and sharper than BILINEAR.
        Image.Resampling.HAMMING,
        box=box,
        # Pillow cannot reduce 16 bit a channel before it resizes.
        reducing_gap=None if image.mode == "I;16" else 2.0,
    )


def _shrunk(size: tuple[int, int], scale: float) -> tuple[int, int]:
    width, height = size
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _resizable(image: Image.Image) -> Image.Image:
    """Return the image with channels, not a palette or a mask, and transparency multiplied in."""
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    # "a" and "A": with and without the other channels multiplied by it.
    mode = {"1": "L", "P": "RGB", "LA": "La", "RGBA": "RGBa"}.get(image.mode)
    return image.convert(mode) if mode else image


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image in 8 bit a channel and on white."""
    if image.mode == "I;16":
        # Pillow's own conversion would cut off, not scale.
        return image.point(lambda value: value / 257 + 0.5).convert("L")
    if image.mode not in ("La", "RGBa"):
        return image
    image = image.convert(image.mode.upper())
    ground = Image.new(image.mode[:-1], image.size, "white")
    ground.paste(image, mask=image)
    return ground


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    header, tags = profile[:128], _tags(profile)
    if not tags or _name(tags.get(b"desc", b"")) in _SRGB_NAMES:
        return image.convert("RGB")  # the most usual profile by far, and nothing to do
    if image.mode == "L" and header[16:20] == b"RGB ":
        image = image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(_sound_profile(header, tags)))
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(source, target, image.mode, "RGB").apply(image)
    except (OSError, StructError, ValueError):
        return image.convert("RGB")  # it is broken, or for other channels than the picture has


_SRGB_NAMES = frozenset({b"sRGB", b"sRGB IEC61966-2.1", b"sRGB built-in"})
_CHANNELS_OF = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}
_PRIMARIES = frozenset({b"rXYZ", b"gXYZ", b"bXYZ"})
_CURVES = frozenset({b"rTRC", b"gTRC", b"bTRC", b"kTRC"})
_TABLE = b"A2B0"


def _tags(profile: bytes) -> dict[bytes, bytes]:
    if not 132 <= len(profile) <= MOST_PROFILE:
        return {}
    table = profile[132:][: 12 * min(unpack_from(">I", profile, 128)[0], 100)]
    whole = table[: len(table) // 12 * 12]
    return {
        name: profile[start : start + length]
        for name, start, length in iter_unpack(">4sII", whole)
        if name in _PRIMARIES | _CURVES | {_TABLE, b"desc"}
    }


def _name(description: bytes) -> bytes:
    """Return the name of a profile, where it has one in one language."""
    if description[:4] == b"mluc":
        return description[28:].replace(b"\0", b"")
    return description[12:].partition(b"\0")[0]


def _sound_profile(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return a profile of only those tags that convert colours and are as long as they say.

    LittleCMS takes what a tag says of itself at its word: a profile of 600 bytes can have it
    allocate 500 MB for a table or a name, and one of a megabyte compute for a minute (chains of
    elements, ``mpet``, which neither cameras nor programs for pictures write).
    """
    channels = _CHANNELS_OF.get(header[16:20], 0)
    sound = {
        name: value
        for name, value in tags.items()
        if (name in _PRIMARIES and value[:4] == b"XYZ ")
        or (name in _CURVES and _is_sound_curve(value))
        or (name == _TABLE and _is_sound_table(value, channels))
    }
    table = pack(">I", len(sound))
    values = b""
    for name, value in sound.items():
        start = len(header) + 4 + 12 * len(sound) + len(values)
        table += name + pack(">II", start, len(value))
        values += value + bytes(-len(value) % 4)
    size = len(header) + len(table) + len(values)
    return pack(">I", size) + header[4:] + table + values


def _is_sound_curve(value: bytes) -> bool:
    if value[:4] == b"curv":
        return 12 + 2 * int(unpack_from(">I", value, 8)[0]) <= len(value)
    return value[:4] == b"para"


def _is_sound_table(value: bytes, channels: int) -> bool:
    """Return whether every point of the grid and of the curves around it has its number."""
    width = {b"mft1": 1, b"mft2": 2}.get(value[:4])
    if width is None:
        return False
    inputs, outputs, grid = unpack_from(">BBB", value, 8)
    before, after = unpack_from(">HH", value, 48) if width == 2 else (256, 256)
    numbers = inputs * before + grid**inputs * outputs + outputs * after
    return bool(inputs == channels and outputs == 3 and 48 + width * numbers <= len(value))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image, exif: bytes) -> Image.Image:
    turn = _TURNS.get(_orientation(exif))
    return image if turn is None else image.transpose(turn)


def _orientation(exif: bytes) -> int:
    """Return tag 0x0112 of the first directory; 0 where it is missing or unreadable."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 0
    start = unpack_from(f"{order}I", exif, 4)[0]
    if start + 2 > len(exif):
        return 0
    entries = exif[start + 2 :][: 12 * unpack_from(f"{order}H", exif, start)[0]]
    whole = entries[: len(entries) // 12 * 12]
    for tag, kind, value in iter_unpack(f"{order}HH4xH2x", whole):
        if tag == 0x0112 and kind == 3:
            return int(value)
    return 0


def _encode(image: Image.Image) -> PortraitImage:
    image.info.clear()  # Pillow would write some of it
    with _file_in_memory() as out:
        image.save(out, "JPEG", quality=_QUALITY, subsampling="4:2:0")
        out.seek(0)
        data = out.read()
    return PortraitImage(data, MEDIA_TYPE, *image.size, sha256(data).hexdigest())


def _file_in_memory() -> BinaryIO:
    """Return a file that is on no disk.

    Pillow lets go of the interpreter lock while it encodes into a file of the system, but holds it
    for a ``BytesIO``: two threads that encode kept all others waiting for half a second.
    """
    in_memory: Callable[[str], int] | None = getattr(os, "memfd_create", None)  # Linux has it
    return BytesIO() if in_memory is None else os.fdopen(in_memory("portrait"), "w+b")


_MARKER = re.compile(rb"\xff([^\x00\xff])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USUAL_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; in Huffman coding
_DECODED = _USUAL_FRAMES | {0xC4, 0xDB, 0xDD}  # and the tables: DHT, DQT, DRI
# What the channels mean: YCbCr or RGB, YCCK or CMYK.
_CHANNELS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
_EXIF = (0xE1, b"Exif\0\0")
_PROFILE = (0xE2, b"ICC_PROFILE\0")
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_SCAN = 0xDA


def _read_jpeg(data: bytes) -> _Picture:
    """Read the segments up to the first scan, and keep those that decoding needs."""
    head = list(_segments(data))
    if not head or head[-1][0] != _SCAN:
        raise ImageRefused("The picture is damaged.")
    _, start, scan = head.pop()
    if data.count(b"\xff\xda", start) > MOST_SCANS:
        raise ImageRefused("The picture is made of too many scans.")
    frames = [(marker, payload) for marker, _, payload in head if marker in _FRAMES]
    if len(frames) != 1 or frames[0][0] not in _USUAL_FRAMES:
        raise ImageRefused("The picture is not of a usual kind.")
    size, memory = _read_frame(*frames[0], channels_of_scan=scan[0])
    kept = [
        pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
        for marker, _, payload in head
        if marker in _DECODED or payload[:5] == _CHANNELS.get(marker)
    ]
    exif = [payload for marker, _, payload in head if (marker, payload[:6]) == _EXIF]
    profile = [payload for marker, _, payload in head if (marker, payload[:12]) == _PROFILE]
    profile.sort(key=lambda payload: payload[12:13])
    return _Picture(
        size,
        memory,
        b"".join([b"\xff\xd8", *kept, data[start:]]),
        exif[0] if exif else b"",
        b"".join([payload[14:] for payload in profile]),
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, place and payload up to the first scan; what is between them is skipped."""
    at = 2
    for _ in range(MOST_PARTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        marker, at = found[1][0], found.end()
        if marker in _ALONE:
            continue
        length = unpack_from(">H", data, at)[0]
        yield marker, found.start(), data[at + 2 : at + length]
        if marker == _SCAN:
            return
        at += length


_SHRUNK_JPEG = 4 * (2 * ENOUGH) ** 2  # the pixels, which decoders give at less than twice ENOUGH


def _read_frame(marker: int, frame: bytes, channels_of_scan: int) -> tuple[tuple[int, int], int]:
    """Return the size, and the bytes that the decoder holds of the whole picture at once."""
    _precision, height, width, channels = unpack_from(">BHHB", frame)
    sampling = [(frame[at] >> 4, frame[at] & 15) for at in range(7, 6 + 3 * channels, 3)]
    if marker != 0xC2 and channels_of_scan >= channels:
        return (width, height), 0  # row by row
    if not all(h and v for h, v in sampling):
        raise ImageRefused("The picture is damaged.")
    across = 8 * max(h for h, _ in sampling)
    down = 8 * max(v for _, v in sampling)
    units = -(-width // across) * -(-height // down)
    coefficients = 64 * units * sum(h * v for h, v in sampling)
    return (width, height), 2 * coefficients + _SHRUNK_JPEG


_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS")
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
# Bytes a pixel, as Pillow holds it: once more where transparency is multiplied in, and a quarter
# for what is resized in two steps.
_PNG_MEMORY = {_GREY: 2, _RGB: 5, _PALETTE: 5, _GREY_ALPHA: 8, _RGBA: 8}
_KEYED_PNG_MEMORY = {_GREY: 9, _RGB: 12, _PALETTE: 9}  # which get transparency on the way
_RESIZING = 20 * 1024 * 1024  # the buffers of the last step, for a picture of any size


def _read_png(data: bytes) -> _Picture:
    """Read the chunks up to the end, and keep those that decoding needs, the pixels as one."""
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    exif = profile = b""
    for name, payload in _chunks(data):
        if name in _PNG_KEPT:
            kept.setdefault(name, payload)
        elif name == b"IDAT":
            pixels.append(payload)
        elif name == b"acTL":
            raise ImageRefused("The picture is animated.")
        elif name == b"eXIf":
            exif = payload
        elif name == b"iCCP":
            profile = _inflate(payload.partition(b"\0")[2][1:])
    width, height, depth, colour = unpack_from(">IIBB", kept.get(b"IHDR", b""))
    if colour != _PALETTE and depth != 8:
        kept.pop(b"tRNS", None)
    a_pixel = (_KEYED_PNG_MEMORY if b"tRNS" in kept else _PNG_MEMORY).get(colour, 12)
    kept |= {b"IDAT": b"".join(pixels), b"IEND": b""}
    coded = [_PNG]
    for name, payload in kept.items():
        check = pack(">I", zlib.crc32(payload, zlib.crc32(name)))
        coded += [pack(">I", len(payload)), name, payload, check]
    memory = width * height * a_pixel + _RESIZING
    return _Picture((width, height), memory, b"".join(coded), exif, profile)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and payload up to the end of the picture, the checksum of what is coded tested."""
    at = len(_PNG)
    for _ in range(MOST_PARTS):
        length, name = unpack_from(">I4s", data, at)
        end = at + 8 + length
        check = unpack_from(">I", data, end)[0]
        payload = data[at + 8 : end]
        if name == b"IEND":
            return
        if name in (*_PNG_KEPT, b"IDAT") and zlib.crc32(payload, zlib.crc32(name)) != check:
            raise ImageRefused("The picture is damaged.")
        yield name, payload
        at = end + 4
    raise ImageRefused("The picture is made of too many parts.")


def _inflate(data: bytes) -> bytes:
    """Return a compressed profile, or too much to be one; nothing where it is broken."""
    try:
        return zlib.decompressobj().decompress(data, MOST_PROFILE + 1)
    except zlib.error:
        return b""


_WEBP_MEMORY = 16  # bytes a pixel: two canvases in libwebp, the one handed over, and Pillow's


def _read_webp(data: bytes) -> _Picture:
    """Read the chunks; the decoder sees all of them, and itself looks at the picture alone."""
    size: tuple[int, int] | None = None
    exif = profile = b""
    for name, payload in _riff_chunks(data):
        if name in (b"ANIM", b"ANMF"):
            raise ImageRefused("The picture is animated.")
        if name == b"EXIF":
            exif = payload
        elif name == b"ICCP":
            profile = payload
        elif size is None:
            size = _webp_size(name, payload)
    if size is None:
        raise ImageRefused("The picture is damaged.")
    return _Picture(size, size[0] * size[1] * _WEBP_MEMORY, data, exif, profile)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            return
        name, length = unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    raise ImageRefused("The picture is made of too many parts.")


def _webp_size(name: bytes, payload: bytes) -> tuple[int, int] | None:
    """Return the size that a chunk states, where it is one that does."""
    if name == b"VP8X":
        return 1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(
            payload[7:10], "little"
        )
    if name == b"VP8L":
        bits = unpack_from("<I", payload, 1)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 ":
        width, height = unpack_from("<HH", payload, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


class _Kind(NamedTuple):
    """One media type: how its bytes begin, which of Pillow's decoders it takes, how it is read."""

    begins: Callable[[bytes], object]
    decoder: str
    read: Callable[[bytes], _Picture]


_KINDS = {
    "image/jpeg": _Kind(re.compile(rb"\xff\xd8\xff").match, "JPEG", _read_jpeg),
    "image/png": _Kind(re.compile(re.escape(_PNG)).match, "PNG", _read_png),
    "image/webp": _Kind(re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL).match, "WEBP", _read_webp),
}
