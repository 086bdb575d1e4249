"""A clinic's day over HTTP: encounters that move on, consent, and portraits beside registrations.

One worker, a bearer token, read models running. Each transition states the version that the one
before left; each consent the flag's. A portrait is a JPEG of about 200 KB, and each differs from
the one that the patient has: it is decoded, made anew, stored, and an event written. While
portraits come in, others register patients at a fixed rate.
"""

import io
from concurrent.futures import ThreadPoolExecutor

import httpx
from PIL import Image

from benchmarks import limit
from benchmarks.bench import Bench
from benchmarks.http import CONNECTIONS, closed, show
from benchmarks.load import Plan
from benchmarks.load import run as load
from benchmarks.results import at_least, at_most
from benchmarks.service import Service, serving
from benchmarks.workloads import MoveEncounter, OpenEncounter, Register, SetConsent, SetPortrait

_UPLOADERS = 4
_SITTERS = 200
_BESIDE = 100
_PICTURE_BYTES = 200_000


def run(bench: Bench) -> None:
    """Measure the paths one after the other."""
    if not bench.results.limits:
        limit.run(bench, "before the clinic")
    bench.say("clinic")
    with serving(bench.data_dir) as service:
        patients = closed(bench, service, Register(service.token, "clinic")).workload.made
        opening = closed(bench, service, OpenEncounter(service.token, "visit", patients))
        show(bench, "clinic", "open an encounter", [opening], None)
        moving = closed(
            bench,
            service,
            MoveEncounter(service.token, "move", CONNECTIONS, opening.workload.made),
        )
        show(bench, "clinic", "move an encounter on, with If-Match", [moving], 0.20)
        bench.add("clinic", "move an encounter on, p99", moving.ms(0.99), "ms")
        saying = closed(
            bench, service, SetConsent(service.token, "say", CONNECTIONS, "research", patients)
        )
        show(bench, "clinic", "record a consent, with If-Match", [saying], 0.20)
        bench.add("clinic", "record a consent, p99", saying.ms(0.99), "ms")
        _portraits(bench, service, patients[:_SITTERS])
        bench.add("clinic", "memory of the worker afterwards", service.rss_mb(), "MB", at_most(400))


def _portraits(bench: Bench, service: Service, patients: list[bytes]) -> None:
    _let_them_agree(service, patients)
    pictures = [_picture(seed) for seed in range(4)]
    bench.settle()
    seconds = bench.scaled(15, 3)
    uploads = Plan(
        service.host,
        service.port,
        SetPortrait(service.token, "sit", patients, pictures),
        _UPLOADERS,
        seconds,
        warm_up=2,
    )
    beside = Plan(
        service.host,
        service.port,
        Register(service.token, "beside"),
        CONNECTIONS,
        seconds,
        warm_up=2,
        rate=_BESIDE,
    )
    with ThreadPoolExecutor(2) as pool:
        uploading, registering = pool.submit(load, uploads), pool.submit(load, beside)
        sent, registered = uploading.result(), registering.result()
    size = sum(map(len, pictures)) // len(pictures) // 1000
    bench.add(
        "clinic",
        f"upload a portrait of {size} KB, {_UPLOADERS} connections",
        sent.rate,
        "requests/s",
        at_least(100),
        note=f"p50 {sent.ms(0.5):.1f} ms, p99 {sent.ms(0.99):.1f} ms",
    )
    bench.add(
        "clinic",
        f"register {_BESIDE} patients/s meanwhile, p99",
        registered.ms(0.99),
        "ms",
        at_most(60),
        note=f"p50 {registered.ms(0.5):.1f} ms",
    )


def _let_them_agree(service: Service, patients: list[bytes]) -> None:
    said = {"decision": "granted", "evidence": {"kind": "signature"}}
    headers = {"authorization": f"Bearer {service.token}", "if-match": '"0"'}
    with httpx.Client(base_url=f"http://{service.host}:{service.port}", headers=headers) as http:
        for patient in patients:
            path = f"/v1/patients/{patient.decode()}/consents/portrait"
            http.put(path, json=said).raise_for_status()


def _picture(seed: int) -> bytes:
    """Return something like a photograph: soft shapes with the grain that fills a JPEG."""
    grain = Image.effect_noise((1200, 1600), 36 + seed)
    shapes = Image.radial_gradient("L").resize(grain.size)
    image = Image.merge("RGB", (Image.blend(grain, shapes, 0.6), shapes, grain.rotate(180)))
    for quality in range(95, 20, -5):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if out.tell() <= _PICTURE_BYTES:
            break
    return out.getvalue()
