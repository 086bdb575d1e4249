"""The child process that runs the read models, kept alive for as long as its parent lives."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "registration", "project", "--until-stdin-closes")
STOP_SECONDS = 15.0
LONGEST_PAUSE = 30.0
# A child that lived this long was healthy: the next failure starts with a short pause again.
HEALTHY_SECONDS = 60.0


@contextmanager
def keep_running(command: Sequence[str] = COMMAND) -> Iterator[None]:
    """Run `command` and start it again, ever more slowly, when it ends by itself.

    The child gets a pipe as its standard input and must end when that closes, which the kernel
    sees to even when this process is killed. On leaving it has `STOP_SECONDS` to do so.
    """
    leaving = threading.Event()
    keeper = threading.Thread(target=_keep, args=(command, leaving), name="read-models")
    keeper.start()
    try:
        yield
    finally:
        leaving.set()
        keeper.join()


def _keep(command: Sequence[str], leaving: threading.Event) -> None:
    pause = 0.5
    while not leaving.is_set():
        started = time.monotonic()
        code = _run_once(command, leaving)
        if leaving.is_set():
            return
        if time.monotonic() - started > HEALTHY_SECONDS:
            pause = 0.5
        logger.error("the read model process ended with %s; next try in %s s", code, pause)
        leaving.wait(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _run_once(command: Sequence[str], leaving: threading.Event) -> int:
    # Its own session: a Ctrl-C in the terminal reaches us alone, and we stop it in order.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as child:
        while child.poll() is None and not leaving.wait(0.1):
            pass
        if child.stdin is not None:
            child.stdin.close()
        try:
            return child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the read model process does not stop; killing it")
            child.kill()
            return child.wait()
