"""Take the pictures of docs/mlflow.md again, from the MLflow store of a workspace.

    reseed retrain configs/bbc-news.yaml --set self_training.rounds=0 --set train.learning_rate=2.0e-5
    reseed retrain configs/bbc-news.yaml --set self_training.rounds=0
    reseed retrain configs/bbc-news.yaml
    python docs/screenshots.py --home .reseed --project bbc-news

Needs Chromium and playwright. tests/publishing/test_mlflow_ui.py opens the same pages and reads them.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flows.cli import ui
from flows.serving.api import bind_port
from flows.settings import Settings
from flows.tracking.store import connect
from tasks.workspace import Workspace

IMAGES = Path(__file__).resolve().parent / "img"
SIZE = {"width": 1280, "height": 800}
COLOURS = 128
# what a person clicks once: the kind of work, and MLflow's own greetings away
SEEN = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
GREETINGS = ("Got it", "Try it now")


@contextmanager
def mlflow_served(settings: Settings) -> Iterator[str]:
    """MLflow's own server and UI over the workspace's store, as `reseed ui` starts it; its address."""
    with bind_port("127.0.0.1", 0, "") as free:
        port = free.getsockname()[1]
    server = ui.mlflow_server(settings, port)
    server.start()
    try:
        server.wait_until_healthy()
        yield server.address
    finally:
        server.stop()


@contextmanager
def chromium() -> Iterator[Any]:
    """Headless Chromium. Raises FileNotFoundError where none is installed."""
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found is None:
        raise FileNotFoundError("no Chromium is installed here: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Ui:
    """MLflow's UI as a person sees it. Each method turns a page, waits for what must stand on it, and gives its text."""

    def __init__(self, browser: Any, address: str, experiment: str) -> None:
        self.page = browser.new_page(viewport=SIZE)
        stored = "".join(f"localStorage.setItem({k!r}, {v!r});" for k, v in SEEN.items())
        self.page.add_init_script(stored)
        self.address, self.experiment = address, experiment
        self.hosts: set[str] = set()
        self.page.on(
            "request",
            lambda r: self.hosts.add(r.url.split("/")[2] if r.url.startswith("http") else ""),
        )

    def open(self, path: str, *expected: str) -> str:
        self.page.goto("about:blank")  # a change of the fragment alone would keep the old page
        self.page.goto(f"{self.address}/#/{path}")
        for text in expected:
            self.wait(text)
        self.page.wait_for_timeout(600)
        for greeting in GREETINGS:
            if (button := self.page.get_by_role("button", name=greeting, exact=True)).count():
                button.first.click()
                self.page.wait_for_timeout(500)
        return self.text

    @property
    def text(self) -> str:
        return str(self.page.inner_text("body")).replace("\xa0", " ")

    def wait(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=30_000)

    def runs(self, *expected: str) -> str:
        """The list of runs in the saved view `Retrains`."""
        return self.open(
            f"experiments/{self.experiment}/runs?viewStateShareKey=reseed",
            "matching runs",
            *expected,
        )

    def unfold(self, *expected: str) -> str:
        """The list of runs with the stages of the first retrain."""
        self.page.locator(".ag-row [aria-label*=xpand], .ag-row button:has(svg)").first.click()
        for text in expected:
            self.wait(text)
        return self.text

    def compare(self, n: int) -> str:
        """The comparison of the first `n` runs of the list, with all of its metrics."""
        for _ in range(n):
            self.page.get_by_label("Press Space to toggle row selection (unchecked)").first.click(
                force=True
            )
            self.page.wait_for_timeout(200)
        self.page.get_by_role("button", name="Compare").click()
        self.wait("Run details")
        self.page.wait_for_timeout(1000)
        return self.text

    def compared(self, metric: str) -> list[str]:
        """The values of a metric in the comparison, a run each, in the order of its columns."""
        grid, name = (
            self.page.locator(".ReactVirtualized__Grid").last,
            self.page.get_by_text(metric, exact=True),
        )
        grid.hover()
        frame = grid.bounding_box()
        for _ in range(200):
            box = name.bounding_box() if name.count() == 1 else None
            if box and box["y"] < frame["y"] + frame["height"] / 2:
                break
            self.page.mouse.wheel(0, 40)
            self.page.wait_for_timeout(50)
        for _ in range(3):  # the names follow the values one event late
            self.page.mouse.wheel(0, 1)
            self.page.wait_for_timeout(200)
        middle = (box := name.bounding_box())["y"] + box["height"] / 2
        cells = [(c.bounding_box(), c.inner_text()) for c in grid.locator("span, a").all()]
        return [
            text
            for box, text in cells
            if text and box and abs(box["y"] + box["height"] / 2 - middle) < 15
        ]

    def run(self, run_id: str, *expected: str, tab: str = "") -> str:
        return self.open(f"experiments/{self.experiment}/runs/{run_id}{tab}", *expected)

    def traces(self, *expected: str) -> str:
        return self.open(f"experiments/{self.experiment}/traces", "Output", *expected)

    def trace(self, request: str) -> str:
        """The first trace whose request holds this text."""
        self.page.get_by_text(request).first.click()
        self.page.get_by_text("Assistant", exact=True).first.wait_for(timeout=30_000)
        self.page.wait_for_timeout(800)
        return self.text

    def shoot(self, name: str) -> None:
        """Write the page to docs/img, with few colours."""
        from PIL import Image

        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB").quantize(COLOURS)
        IMAGES.mkdir(exist_ok=True)
        picture.save(IMAGES / f"{name}.png", optimize=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--home", type=Path, default=Path(".reseed"))
    asked.add_argument("--project", default="bbc-news")
    args = asked.parse_args()
    workspace = Workspace(args.home.absolute())
    settings = Settings(workspace, f"sqlite:///{workspace.mlflow_database}")
    client = connect(settings)
    experiment = client.get_experiment_by_name(args.project)
    retrains = client.search_runs([experiment.experiment_id], "tags.`reseed.kind` = 'retrain'")
    run = next(r.info.run_id for r in retrains if r.data.tags.get("verdict") == "promote")
    champion = client.get_model_version_by_alias(args.project, "champion").version
    with mlflow_served(settings) as address, chromium() as browser:
        ui_ = Ui(browser, address, experiment.experiment_id)
        ui_.runs("promote")
        ui_.page.get_by_label("Hide banner").click()
        ui_.page.wait_for_timeout(500)
        ui_.shoot("mlflow-runs")
        ui_.compare(min(3, len(retrains)))
        ui_.compared("test.f1_macro")
        ui_.shoot("mlflow-compare")
        ui_.run(run, "macro-F1")
        ui_.page.get_by_text("Show more").first.click()
        ui_.page.wait_for_timeout(500)
        ui_.shoot("mlflow-run")
        ui_.run(run, "confusion.png", tab="/artifacts/confusion.png")
        ui_.page.wait_for_timeout(1000)
        ui_.shoot("mlflow-artifacts")
        ui_.traces("Write a")
        ui_.shoot("mlflow-traces")
        ui_.trace("Write a")
        ui_.shoot("mlflow-trace")
        ui_.open(f"models/{args.project}", "Versions", "champion")
        ui_.page.get_by_text("Tags", exact=True).first.click()  # folds them
        ui_.page.wait_for_timeout(500)
        ui_.shoot("mlflow-registry")
        ui_.open(f"models/{args.project}/versions/{champion}", "Intended use")
        ui_.shoot("mlflow-version")
    for picture in sorted(IMAGES.glob("mlflow-*.png")):
        sys.stdout.write(f"{picture.name} {picture.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    main()
