"""The commands that answer with the champion, and `reseed ui`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.output import Finish, prints_result
from flows.settings import Settings

PORT = click.IntRange(0, 65535)


@click.command()
@click.argument("name")
@click.argument("texts", nargs=-1)
@click.option(
    "--in", "source", type=click.Path(path_type=Path), help="A CSV, JSONL or Parquet file."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="A new CSV or JSONL file for the answers."
)
@click.option("--text-column", default="text", show_default=True)
@prints_result
def predict(
    name: str,
    texts: tuple[str, ...],
    source: Path | None,
    out: Path | None,
    text_column: str,
    finish: Finish,
) -> None:
    """Classify TEXTS, a file (--in) or the lines of standard input with the champion of NAME."""
    from flows.serving import predict as serving

    inputs = serving.read_texts(list(texts), source, text_column)
    result = serving.predict_texts(Settings.from_environment(), name, inputs, out)
    finish(result, serving.show_predictions)


@click.command()
@click.argument("name")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=PORT, help="0 takes a free one.")
@prints_result
def serve(name: str, host: str, port: int, finish: Finish) -> None:
    """Serve the champion of NAME over HTTP: POST /predict, GET /health, GET /ready."""
    from flows.serving import api

    settings = Settings.from_environment()
    api.serve_champion(
        settings, name, host=host, port=port, ready=lambda a: finish(a, api.show_address)
    )


@click.command()
@click.option("--mlflow-port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--prefect-port", default=4200, show_default=True, type=click.IntRange(1, 65535))
@prints_result
def ui(mlflow_port: int, prefect_port: int, finish: Finish) -> None:
    """Start the UIs of MLflow and Prefect on this machine, and serve them until Ctrl-C."""
    from flows.cli import ui as servers

    servers.run_servers(
        Settings.from_environment(),
        mlflow_port=mlflow_port,
        prefect_port=prefect_port,
        ready=lambda a: finish(a, servers.show_ui_addresses),
    )


COMMANDS = (predict, serve, ui)
