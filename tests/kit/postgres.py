"""A PostgreSQL server of one's own from Debian's binaries, on a socket in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Missing(RuntimeError):
    """What there is not to start a server with."""


class Postgres:
    """The server. It refuses root, so it runs as `postgres`."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._folder = binaries, folder
        self.run("initdb", "-D", folder / "data", "--auth=trust", "--no-sync", "-U", "postgres")
        settings = f"-c listen_addresses='' -k {folder} -c fsync=off"
        self.run(
            "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", settings, "start"
        )
        self.run("createdb", "-h", folder, "-U", "postgres", "mlflow")
        self.uri = f"postgresql+psycopg://postgres@/mlflow?host={folder}"
        migrations = "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as S; S(*sys.argv[1:])"
        subprocess.run(
            [sys.executable, "-c", migrations, self.uri, str(folder)], check=True, timeout=120
        )  # once

    def run(self, program: str, *arguments: str | Path) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd="/", timeout=60, stdout=subprocess.DEVNULL)

    def emptied(self) -> str:
        """The URI of the store, without what was left in it."""
        with self.session() as connection:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            names = ", ".join(t for (t,) in tables if t != "alembic_version")
            connection.execute(f"TRUNCATE {names} CASCADE")
        return self.uri

    def session(self):  # type: ignore[no-untyped-def]
        """A connection of psycopg's."""
        import psycopg

        return psycopg.connect(self.uri.replace("+psycopg", ""), autocommit=True)

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")


@contextlib.contextmanager
def started() -> Iterator[Postgres]:
    """A server while the body runs. Raises Missing, saying what, where none can be started."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise Missing("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb")
    folder = Path(
        tempfile.mkdtemp(prefix="reseed-pg-")
    )  # pytest's own folders are closed to other users
    try:
        if os.geteuid() == 0:
            if shutil.which("runuser") is None or "postgres" not in {
                u.pw_name for u in pwd.getpwall()
            }:
                raise Missing(
                    "PostgreSQL refuses root, and there is no runuser or no user postgres"
                )
            shutil.chown(folder, "postgres")
        server = Postgres(found[-1].parent, folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary(store: str) -> Iterator[Postgres | None]:
    """The server, or None for another store."""
    if store != "postgres":
        yield None
        return
    with started() as server:
        yield server
