"""The curves of a training in MLflow, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from mlflow.entities import Metric, Run

from flows.progress import say
from flows.tracking.run import Tracking, metrics_now
from tasks.progress import Points


@contextmanager
def live_curves(tracking: Tracking, name: str) -> Iterator[Callable[[str, Points], None]]:
    """A function that logs points of curves on the stage's run `name`: call it with the stage's key
    and the points.

    The first call opens the run, so a stage that was built before opens none. A thread logs: the
    training neither waits for MLflow nor fails with it. Tracking.log_stage logs what is missing and
    ends the run. Where the body raises, the run ends as FAILED or KILLED.
    """
    curves = _LiveCurves(tracking, name)
    try:
        yield curves.add
    except BaseException as e:
        status = "FAILED" if isinstance(e, Exception) else "KILLED"
        with suppress(Exception):  # the body's own error matters more
            curves.fail(status, f"{type(e).__name__}: {e}")
        raise
    curves.finish()


class _LiveCurves:
    """A thread that logs the points of one run; points that MLflow refused are sent again with the
    next ones."""

    def __init__(self, tracking: Tracking, name: str) -> None:
        self.tracking, self.name, self.key = tracking, name, ""
        self.thread = ThreadPoolExecutor(1, f"curves of {name}")
        self.queue: SimpleQueue[list[Metric]] = SimpleQueue()
        self.unsent: list[Metric] = []
        self.run: Run | None = None
        self.logged: set[tuple[str, int]] = set()
        self.failure_reported = False

    def add(self, key: str, points: Points) -> None:
        self.key = key
        self.queue.put(metrics_now(points))
        self.thread.submit(self._send)

    def finish(self) -> None:
        """Log what is left, in one try."""
        self.thread.shutdown(cancel_futures=True)
        self._send()

    def fail(self, status: str, failure: str) -> None:
        """End the run, where it was opened."""
        self.finish()
        if self.run is not None and self.run.info.status != "FINISHED":
            self.tracking.client.set_tag(self.run.info.run_id, "failure", failure[:5000])
            self.tracking.client.set_terminated(self.run.info.run_id, status)

    def _send(self) -> None:
        while not self.queue.empty():
            self.unsent += self.queue.get()
        try:
            if self.unsent:
                self._log(self.unsent)
            self.unsent = []
        except Exception as e:  # no fault of MLflow ends a training
            self._report(e)

    def _log(self, points: list[Metric]) -> None:
        """Log the points that the run lacks: a resumed training reports some again."""
        if self.run is None:
            run = self.tracking.open_stage_run(self.name, self.key)
            self.logged = self.tracking.logged_points(run.info.run_id, set(run.data.metrics))
            self.run = run
        if self.run.info.status == "FINISHED":  # the stage was logged before and is built again
            return
        new = {(m.key, m.step): m for m in points if (m.key, m.step) not in self.logged}
        self.tracking.log_points(self.run.info.run_id, list(new.values()))
        self.logged |= new.keys()

    def _report(self, error: Exception) -> None:
        if not self.failure_reported:
            why = str(error).partition("\n")[0][:200]
            say(
                f"  MLflow refused the curves of {self.name} ({type(error).__name__}: {why}): "
                "retrying, and what is missing is logged after the training"
            )
        self.failure_reported = True
