"""A served deployment and its runs, as a person at Prefect's server sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.kit.processes import get, wait_for


def answered(url: str, body: Any) -> Any:
    """What Prefect's server says, asked again while its SQLite file is locked (status 503 or 500), as a person would."""

    def there() -> Any:
        status, told = get(url, body)
        assert status < 300 or status >= 500, (status, told)
        return told if status < 300 else None

    return wait_for(there, f"an answer of {url}", 60)


@dataclass(frozen=True)
class Run:
    """A flow run; `address` is its own at the server."""

    address: str

    @classmethod
    def started(cls, api: str, deployment: str, parameters: dict[str, Any]) -> Run:
        """A new run of the deployment FLOW/NAME, once it is there."""

        def there() -> Any:
            status, found = get(f"{api}/deployments/name/{deployment}")
            return found if status == 200 else None

        found = wait_for(there, "the deployment")
        made = answered(
            f"{api}/deployments/{found['id']}/create_flow_run", {"parameters": parameters}
        )
        return cls(f"{api}/flow_runs/{made['id']}")

    @property
    def state(self) -> dict[str, Any]:
        now: dict[str, Any] = get(self.address)[1]["state"]
        return now

    def reaches(self, name: str, seconds: float = 120) -> None:
        """Wait for the state of this name; one that failed never comes to it."""

        def there() -> bool:
            now = self.state
            assert now["type"] not in {"FAILED", "CRASHED"}, now["message"]
            return bool(now["name"] == name)

        wait_for(there, f"the state {name}", seconds)

    def question(self, key: str) -> str:
        """What the pause of that key asks; the state is set before the question is stored."""
        asked = {"prefix": f"suspended-{key}-description"}
        return str(
            wait_for(lambda: get(f"{self.address}/input/filter", asked)[1], "the question")[0][
                "value"
            ]
        )

    def resume(self, **answer: Any) -> str:
        """What became of the answer: ACCEPT or REJECT."""
        return str(answered(f"{self.address}/resume", {"run_input": answer})["status"])
