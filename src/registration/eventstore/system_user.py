"""The system user that PostgreSQL runs as: ourselves, or, since it refuses root, somebody else."""

import logging
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

NAME_UNDER_ROOT = "pgserver"


class SystemUserError(RuntimeError):
    """No user to run PostgreSQL as. The message says what to do about it."""


class SystemUser(NamedTuple):
    """Who runs the server. `switch` says that we are root and become that user to do so."""

    name: str
    uid: int
    gid: int
    switch: bool

    def run(self, arguments: list[str]) -> tuple[int, str]:
        """Run a program as this user, and return its exit code and what it wrote.

        Its own session keeps a Ctrl-C in our terminal away from it; a file instead of a pipe
        lets it return while a server that it started lives on.
        """
        identity = {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}
        with tempfile.TemporaryFile() as output:
            finished = subprocess.run(
                arguments,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                **identity,  # type: ignore[call-overload]  # mypy cannot see through the dict
            )
            output.seek(0)
            return finished.returncode, output.read().decode(errors="replace").strip()

    def own(self, path: Path) -> None:
        """Make this user the owner of a file or folder that we made."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def let_reach(self, folder: Path) -> None:
        """Let this user pass through a folder and those above it, without letting it list them."""
        if not self.switch:
            return
        for step in (folder, *folder.parents):
            mode = step.stat().st_mode
            if not mode & stat.S_IXOTH and step.stat().st_uid != self.uid:
                logger.info("letting the user %s pass through %s", self.name, step)
                step.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def let_run(self, binaries: Path) -> None:
        """Make sure that this user can run the server. Raises `SystemUserError` if it cannot."""
        if not self.switch or self._can_run(binaries):
            return
        self.let_reach(binaries)
        for path in (binaries.parent, *binaries.parent.rglob("*")):
            _let_read(path)
        if not self._can_run(binaries):
            raise SystemUserError(f"the user {self.name} cannot run {binaries / 'postgres'}")

    def _can_run(self, binaries: Path) -> bool:
        try:
            code, _ = self.run([str(binaries / "postgres"), "--version"])
        except PermissionError:
            return False
        return code == 0


def server_user(pgdata: Path) -> SystemUser:
    """Who runs the server of this data directory: its owner, if it exists already.

    Raises `SystemUserError` when that is another user than we may act for, or when we are root
    and can find no other user.
    """
    me = os.geteuid()
    found = pgdata.stat() if pgdata.exists() else None
    if me != 0:
        if found is not None and found.st_uid != me:
            raise SystemUserError(f"{pgdata} belongs to the user {_name(found.st_uid)}, not to you")
        return SystemUser(_name(me), me, os.getegid(), switch=False)
    if found is not None and found.st_uid != 0:
        return SystemUser(_name(found.st_uid), found.st_uid, found.st_gid, switch=True)
    entry = _user_under_root()
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=True)


def _user_under_root() -> pwd.struct_passwd:
    reason = "there is no useradd here"
    useradd = shutil.which("useradd", path=os.defpath + ":/usr/sbin:/sbin")
    for _ in range(20):
        try:
            return pwd.getpwnam(NAME_UNDER_ROOT)
        except KeyError:
            if useradd is None:
                break
        made = subprocess.run(
            [useradd, "--system", "--no-create-home", "--user-group", NAME_UNDER_ROOT],
            check=False,
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            # Another process that starts at the same time may hold the user database.
            reason = made.stderr.strip()
            time.sleep(0.1)
    raise SystemUserError(
        f"PostgreSQL does not run as root, and the user {NAME_UNDER_ROOT} cannot be made "
        f"({reason}): create that user, or run this program as another one"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _environment() -> dict[str, str]:
    # PGDATA, PGPORT and their like would steer the server's programs; the locale, their messages.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return ours | {"LC_ALL": "C"}


def _let_read(path: Path) -> None:
    if path.is_symlink():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() or mode & stat.S_IXUSR else 0)
    if mode & wanted != wanted:
        path.chmod(mode | wanted)
