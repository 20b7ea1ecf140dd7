"""The curves of a training in MLflow, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread

from mlflow.entities import Metric, Run

from flows.progress import say
from flows.tracking.run import Tracking, points_now
from tasks.progress import Points

CURVE_SECONDS = 1.0  # between two batches of points to MLflow
LAST_SECONDS = 20.0  # that a failed training waits for its last points to be logged


@contextmanager
def curves(log: Tracking, name: str) -> Iterator[Callable[[str, Points], None]]:
    """What takes a stage's key and the points of its curves while the body runs, for the stage's run `name`.

    The first call opens the run, so none is opened for a stage that is found; Tracking.stage finishes it. Where the body
    raises, it ends as FAILED or KILLED. MLflow is written to beside the body, which neither waits for it nor fails by it.
    """
    live = _Curves(log, name)
    try:
        yield live.take
    except BaseException as e:
        live.end("FAILED" if isinstance(e, Exception) else "KILLED", f"{type(e).__name__}: {e}")
        raise
    live.end()


class _Curves:
    """A thread that logs the points of one run. What MLflow does not take is kept and tried again with the next."""

    def __init__(self, log: Tracking, name: str) -> None:
        self._log, self._name, self._key = log, name, ""
        self._told: SimpleQueue[list[Metric] | None] = SimpleQueue()  # None: it has ended
        self._over = Event()
        self._failed: tuple[str, str] | None = None
        self._thread: Thread | None = None
        self._run: Run | None = None
        self._there: set[tuple[str, int]] = set()
        self._complained = False

    def take(self, key: str, points: Points) -> None:
        self._told.put(points_now(points))
        if self._thread is None:
            self._key = key
            self._thread = Thread(target=self._work, name=f"curves of {self._name}", daemon=True)
            self._thread.start()

    def end(self, status: str | None = None, failure: str = "") -> None:
        """Log what is left and, where a status is given, end the run with it."""
        if self._thread is None:
            return
        self._failed = (status, failure) if status else None
        self._told.put(None)
        self._over.set()
        self._thread.join(LAST_SECONDS if status else None)  # the stage is logged to the same MLflow next

    def _work(self) -> None:
        waiting: list[Metric] = []
        over = False
        while not over:
            came = [self._told.get()]
            while not self._told.empty():
                came.append(self._told.get())
            over = None in came
            waiting += [m for points in came for m in points or []]
            try:
                self._send(waiting)
                waiting = []
                if self._failed and over:
                    self._close(*self._failed)
            except Exception as e:  # whatever it is, it is no reason to end a training
                self._complain(e)
            self._over.wait(CURVE_SECONDS)

    def _send(self, points: list[Metric]) -> None:
        """Log the points whose step the run does not have: a training that resumes tells some again."""
        if self._run is None:
            run = self._log.stage_run(self._name, self._key)
            self._there = self._log.logged(run.info.run_id, set(run.data.metrics))
            self._run = run
        if self._run.info.status == "FINISHED":  # of a stage that was logged, and is built anew
            return
        new = {(m.key, m.step): m for m in points if (m.key, m.step) not in self._there}
        self._log.log_points(self._run.info.run_id, list(new.values()))
        self._there |= new.keys()

    def _close(self, status: str, failure: str) -> None:
        if self._run is not None and self._run.info.status != "FINISHED":
            self._log.client.set_tag(self._run.info.run_id, "failure", failure[:5000])
            self._log.client.set_terminated(self._run.info.run_id, status)

    def _complain(self, error: Exception) -> None:
        if self._complained:
            return
        self._complained = True
        why = str(error).partition("\n")[0][:200]
        say(
            f"  MLflow does not take the curves of {self._name} now ({type(error).__name__}: {why}): it is asked again, and what "
            f"is missing is logged when the training has ended"
        )
