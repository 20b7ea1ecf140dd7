"""A shared MLflow server as mlflow/server.env.example says it, on a real PostgreSQL and with artifacts in a bucket."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from flows.settings import Settings
from tasks.model.bundle import BundleRef
from tasks.workspace import Workspace
from tests.conftest import ROOT
from tests.kit.processes import BIN, free_port, get, running, wait_for
from tests.kit.registry import Store

pytestmark = pytest.mark.slow
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def bucket() -> Iterator[tuple[str, Any]]:
    """The address of an S3, and a client of it, with an empty bucket named `bucket`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    own = {"aws_access_key_id": "me", "aws_secret_access_key": "mine", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=address, **own)
    client.create_bucket(Bucket="bucket")
    yield address, client
    server.stop()


def filled(port: int, database: str, s3: str) -> str:
    """The example as somebody fills it in for this machine."""
    text = (ROOT / "mlflow" / "server.env.example").read_text()
    given = {
        r"^MLFLOW_BACKEND_STORE_URI=.*": f"MLFLOW_BACKEND_STORE_URI='{database}'",
        r"//BUCKET/": "//bucket/",
        r"^AWS_ACCESS_KEY_ID=$": "AWS_ACCESS_KEY_ID=me",
        r"^AWS_SECRET_ACCESS_KEY=$": "AWS_SECRET_ACCESS_KEY=mine",
        r"^#MLFLOW_S3_ENDPOINT_URL=.*": f"MLFLOW_S3_ENDPOINT_URL={s3}",
        r"=mlflow\.example,.*": f"=127.0.0.1:{port}",
    }
    for pattern, value in given.items():
        text, n = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert n == 1, pattern
    return text


def test_versions_are_promoted_and_fetched_through_it(
    tmp_path: Path,
    home: Path,
    postgres: Any,
    bucket: tuple[str, Any],
    bundles: list[BundleRef],
    unasked: list[Path],
) -> None:
    port, (s3, client) = free_port(), bucket
    env = tmp_path / "server.env"
    env.write_text(filled(port, postgres.emptied(), s3))
    (said,) = re.findall(r"^#   (mlflow server .*)$", env.read_text(), re.MULTILINE)
    command = (
        said.replace("0.0.0.0", "127.0.0.1")
        .replace("5000", str(port))
        .replace("--workers 4", "--workers 1")
    )
    address = f"http://127.0.0.1:{port}"
    clean = {"PATH": f"{BIN}:{os.environ['PATH']}", **dict.fromkeys(KEYS, "")}
    with running("bash", "-c", f"set -a; . {env}; set +a; exec {command}", **clean):
        wait_for(lambda: get(f"{address}/health")[0] == 200, "the server")
        assert not any(os.environ.get(k) for k in KEYS), "who retrains needs no key of the bucket"
        store = Store(Settings(Workspace(home), address), artifacts="mlflow-artifacts:/toy")
        first, second = store.register(bundles[0]), store.register(bundles[1])
        store.promote(first, None)
        store.promote(second, first)
        aliases = store.aliases()
        assert (aliases["champion"], aliases["previous"]) == (second.version, first.version)
        assert (Path(store.registry.fetch(second)) / "model.safetensors").read_bytes() == (
            bundles[1].directory / "model.safetensors"
        ).read_bytes()
        assert [version for _, version in store.moves()] == [first.version, second.version]
        kept = [o["Key"] for o in client.list_objects_v2(Bucket="bucket")["Contents"]]
        assert sum(key.endswith("bundle/model.safetensors") for key in kept) == 2 and all(
            k.startswith("mlflow/") for k in kept
        )
        other = urllib.request.Request(
            f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0",
            headers={"Host": "evil.example"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(other, timeout=20)
        assert refused.value.code == 403
    with postgres.session() as connection:
        (found,) = connection.execute("SELECT count(*) FROM model_versions").fetchall()
    assert found == (2,)
