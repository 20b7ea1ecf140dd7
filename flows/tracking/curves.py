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
    """A function that takes a stage's key and the points of its curves, for the stage's run `name`.

    The first call opens the run, so none is opened for a stage that is found. A thread logs the points:
    the training neither waits for MLflow nor fails by it. Tracking.log_stage logs what is missing, and
    ends the run. Where the body raises, the run ends as FAILED or KILLED.
    """
    live = _LiveCurves(tracking, name)
    try:
        yield live.take
    except BaseException as e:
        with suppress(Exception):  # what the body raised matters more
            live.fail(
                "FAILED" if isinstance(e, Exception) else "KILLED", f"{type(e).__name__}: {e}"
            )
        raise
    live.finish()


class _LiveCurves:
    """A thread that logs the points of one run. What MLflow refuses is kept and sent again with the next points."""

    def __init__(self, tracking: Tracking, name: str) -> None:
        self.tracking, self.name, self.key = tracking, name, ""
        self.thread = ThreadPoolExecutor(1, f"curves of {name}")
        self.taken: SimpleQueue[list[Metric]] = SimpleQueue()
        self.waiting: list[Metric] = []
        self.run: Run | None = None
        self.logged: set[tuple[str, int]] = set()
        self.refused = False

    def take(self, key: str, points: Points) -> None:
        self.key = key
        self.taken.put(metrics_now(points))
        self.thread.submit(self._send)

    def finish(self) -> None:
        """Log what is left: one more try, however many points MLflow has refused."""
        self.thread.shutdown(cancel_futures=True)
        self._send()

    def fail(self, status: str, failure: str) -> None:
        """End the run of a training that failed, where it was opened."""
        self.finish()
        if self.run is not None and self.run.info.status != "FINISHED":
            self.tracking.client.set_tag(self.run.info.run_id, "failure", failure[:5000])
            self.tracking.client.set_terminated(self.run.info.run_id, status)

    def _send(self) -> None:
        while not self.taken.empty():
            self.waiting += self.taken.get()
        try:
            if self.waiting:
                self._log(self.waiting)
            self.waiting = []
        except Exception as e:  # whatever it is, it is no reason to end a training
            self._report(e)

    def _log(self, points: list[Metric]) -> None:
        """Log the points that the run does not have: a training that resumes reports some again."""
        if self.run is None:
            run = self.tracking.open_stage_run(self.name, self.key)
            self.logged = self.tracking.logged_points(run.info.run_id, set(run.data.metrics))
            self.run = run
        if self.run.info.status == "FINISHED":  # a stage that was logged, and is built anew
            return
        new = {(m.key, m.step): m for m in points if (m.key, m.step) not in self.logged}
        self.tracking.log_points(self.run.info.run_id, list(new.values()))
        self.logged |= new.keys()

    def _report(self, error: Exception) -> None:
        if not self.refused:
            why = str(error).partition("\n")[0][:200]
            say(
                f"  MLflow does not take the curves of {self.name} ({type(error).__name__}: {why}): it is asked "
                f"again, and what is missing is logged when the training has ended"
            )
        self.refused = True
