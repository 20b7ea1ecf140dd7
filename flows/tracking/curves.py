"""The curves of a training in MLflow, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from mlflow.entities import Run
from mlflow.utils.async_logging.run_operations import RunOperations

from flows.progress import say
from flows.tracking.run import Tracking, points_now
from tasks.progress import Points


@contextmanager
def live_curves(tracking: Tracking, name: str) -> Iterator[Callable[[str, Points], None]]:
    """A function that takes a stage's key and the points of its curves, for the stage's run `name`.

    The first call opens the run, so none is opened for a stage that is found. MLflow logs the points in
    the background, and a training never fails by them: Tracking.log_stage logs what is missing, and ends
    the run. Where the body raises, the run ends as FAILED or KILLED.
    """
    live = _LiveCurves(tracking, name)
    try:
        yield live.take
    except BaseException as e:
        with suppress(Exception):  # what the body raised matters more
            live.fail("FAILED" if isinstance(e, Exception) else "KILLED", f"{type(e).__name__}: {e}")
        raise
    live.wait()


@dataclass
class _LiveCurves:
    """The points of one run on their way to MLflow. After the first that MLflow refuses, no more are sent."""

    tracking: Tracking
    name: str
    run: Run | None = None
    logged: set[tuple[str, int]] = field(default_factory=set)
    sent: list[RunOperations] = field(default_factory=list)
    refused: bool = False

    def take(self, key: str, points: Points) -> None:
        """Send the points that the run does not have: a training that resumes reports some again."""
        if self.refused:
            return
        try:
            if self.run is None:
                self.run = self.tracking.stage_run(self.name, key)
                self.logged = self.tracking.logged(self.run.info.run_id, set(self.run.data.metrics))
            if self.run.info.status == "FINISHED":  # a stage that was logged, and is built anew
                return
            new = {(m.key, m.step): m for m in points_now(points) if (m.key, m.step) not in self.logged}
            if new:
                self.logged |= new.keys()
                self.sent.append(self.tracking.send_points(self.run.info.run_id, list(new.values())))
        except Exception as e:  # whatever it is, it is no reason to end a training
            self._report(e)

    def wait(self) -> None:
        """Return when every point was logged or refused."""
        for operation in self.sent:
            try:
                operation.wait()
            except Exception as e:
                self._report(e)

    def fail(self, status: str, failure: str) -> None:
        """End the run of a training that failed, where it was opened."""
        if self.run is not None and self.run.info.status != "FINISHED":
            self.wait()
            self.tracking.client.set_tag(self.run.info.run_id, "failure", failure[:5000])
            self.tracking.client.set_terminated(self.run.info.run_id, status)

    def _report(self, error: Exception) -> None:
        if not self.refused:
            why = str(error).partition("\n")[0][:200]
            say(
                f"  MLflow does not take the curves of {self.name} ({type(error).__name__}: {why}): what is "
                f"missing is logged when the training has ended"
            )
        self.refused = True
