"""The model registry of one MLflow store: versions, aliases, and what is recorded on them.

MLflow's aliases belong to the last writer, so whoever writes holds the registry's lock;
flows/registry/promotion.py moves the champion.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from flows.registry import promotion_log
from flows.registry.lock import Held, registry_lock
from flows.registry.promotion_log import LogEntry, PromotionLog
from flows.settings import Settings
from flows.tracking.logged_model import find_or_log_model
from flows.tracking.store import all_pages
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError, suggestion
from tasks.model.bundle import check_bundle

_MODEL = "reseed.model"
_MISSING = (MlflowException, FileNotFoundError, NotADirectoryError)
TARGETS = "reseed.hooks"  # tag of a model: where its promotions are notified, as JSON
MOST_USES = 350  # bundles in a tag; promote.confidence is unreachable long before so many verdicts


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version; `digest` is its bundle's, empty where Reseed did not register it."""

    name: str
    version: str
    digest: str
    run_id: str
    tags: dict[str, str]

    @classmethod
    def of(cls, v: ModelVersion) -> Version:
        """MLflow's version as ours."""
        tags = dict(v.tags)
        return cls(v.name, str(v.version), tags.get("reseed.bundle", ""), v.run_id or "", tags)

    @property
    def model_id(self) -> str:
        """The id of its logged model, which a SQL store does not keep with the version."""
        return self.tags.get(_MODEL, "")


class Registry:
    """The registered models of one MLflow store."""

    def __init__(self, client: MlflowClient, settings: Settings) -> None:
        self.client, self.settings = client, settings

    # --- reading

    def find_alias(self, name: str, alias: str) -> Version | None:
        """The version with this alias."""
        try:
            return Version.of(self.client.get_model_version_by_alias(name, alias))
        except MlflowException as e:
            if e.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise TransientError(f"MLflow at {self.settings.store}: {e}") from None

    def aliases(self, name: str) -> dict[str, str]:
        """The version of each alias."""
        return {k: str(v) for k, v in self.client.get_registered_model(name).aliases.items()}

    def champion(self, name: str) -> Version | None:
        """The version with the alias `champion`."""
        return self.find_alias(name, "champion")

    def versions(self, name: str) -> list[Version]:
        """All versions, newest first; none where there is no such model."""
        versions = all_pages(
            lambda token: self.client.search_model_versions(
                f"name='{name}'", max_results=200, page_token=token
            )
        )
        return [Version.of(v) for v in sorted(versions, key=lambda v: -int(v.version))]

    def version(self, name: str, version: str) -> Version:
        """The version with this number. Raises UserError that lists the existing ones."""
        versions = {v.version: v for v in self.versions(name)}
        if version not in versions:
            known = ", ".join(sorted(versions, key=int)) or "none"
            raise UserError(
                f"{name!r} has no version {version!r} (existing: {known}): "
                f"`reseed status {name}` shows them"
            )
        return versions[version]

    def model_names(self) -> list[str]:
        """The names of the registered models, sorted."""
        return sorted(m.name for m in self.client.search_registered_models(max_results=1000))

    def require_model(self, name: str) -> None:
        """Raise UserError, with the nearest name, where there is no model of this name."""
        names = self.model_names()
        if name not in names:
            known = f"known: {', '.join(names)}" if names else "`reseed retrain CONFIG` makes one"
            raise UserError(f"there is no model {name!r}{suggestion(name, names)} ({known})")

    def fetch(self, version: Version) -> Path:
        """The version's bundle on this machine, verified against its manifest and `version.digest`.

        Raises CorruptDirectory where it differs. Nothing of it is loaded.
        """
        target = self.settings.workspace.served_bundle(version.name, version.digest)
        title = f"{version.name} version {version.version}"
        if not version.digest:
            raise CorruptDirectory(f"{title} has no tag reseed.bundle: Reseed did not register it")
        if target.exists():
            try:
                check_bundle(target, digest=version.digest)
                return target
            except CorruptDirectory:
                target.rename(target.with_name(f"{target.name}.corrupt-{time.time_ns()}"))
        scratch = self.settings.workspace.scratch("fetch", f"{target.name[:16]}-{time.time_ns()}")
        scratch.mkdir(parents=True)
        try:
            uri = self.client.get_model_version_download_uri(version.name, version.version)
            source = f"{uri.rstrip('/')}/artifacts/bundle"
            fetched = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(scratch)))
            check_bundle(fetched, digest=version.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another process may have fetched it meanwhile
                fetched.rename(target)
        except (*_MISSING, shutil.Error, RecursionError) as e:
            reason = " ".join(str(e).split())[:500]
            raise CorruptDirectory(f"{title}: its bundle cannot be fetched: {reason}") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        check_bundle(target, digest=version.digest)
        return target

    def history(self, name: str) -> list[LogEntry]:
        """The promotions of `name`, oldest first."""
        return PromotionLog.read(self.client, name).promotions

    def inconsistencies(self, name: str) -> list[str]:
        """A sentence on every contradiction between the registry and the history of `name`."""
        champion = self.champion(name)
        versions = {v.version: v.tags.get(promotion_log.ROW) for v in self.versions(name)[::-1]}
        log = PromotionLog.read(self.client, name)
        return log.inconsistencies(champion.version if champion else None, versions=versions)

    def refusal(self, version: Version) -> str | None:
        """A sentence where a person refused this version, or replaced it after it was promoted: no
        verdict overrules that."""
        name, number = version.name, version.version
        tags = self.version(name, number).tags
        if row := PromotionLog.read(self.client, name).taken_back(number):
            replaced = f"replaced by version {row.version}"
            done = "rolled back" if row.kind == "rollback" else replaced
            who, why = row.who, row.reason
        elif tags.get("reseed.refused_by"):
            done, who = "refused", tags["reseed.refused_by"]
            why = tags.get("reseed.refused_because", "")
        else:
            return None
        return (
            f"version {number} was {done} by {who}: {why}; "
            f"`reseed promote {name} {number} --reason ...` overrules it"
        )

    def last_champion(self, name: str) -> Version | None:
        """What a challenger has to beat: the champion, or the existing version promoted last where
        the alias was deleted."""
        if champion := self.champion(name):
            return champion
        versions = {v.version: v for v in self.versions(name)}
        promoted = (row.version for row in reversed(self.history(name)))
        return next((versions[v] for v in promoted if v in versions), None)

    # --- writing

    def register(
        self,
        name: str,
        directory: Path,
        *,
        digest: str,
        run_id: str,
        labels: list[str],
        description: str,
    ) -> Version:
        """The version that holds this bundle, registered where there is none, as `challenger`."""
        assert directory.name == "bundle", "fetch downloads the folder `bundle`"
        key = promotion_key(name, digest)
        with self.lock(name) as held:
            versions = self.versions(name)
            version = next((v for v in versions if v.tags.get("reseed.promotion_key") == key), None)
            if version is None:
                model_id = find_or_log_model(
                    self.client, key, directory, name=name, run_id=run_id, labels=labels
                )
                with contextlib.suppress(MlflowException):
                    self.client.create_registered_model(name)
                location = self.client.get_logged_model(model_id).artifact_location
                held()  # logging took seconds
                created = self.client.create_model_version(
                    name,
                    location,
                    run_id=run_id,
                    tags={"reseed.promotion_key": key, "reseed.bundle": digest, _MODEL: model_id},
                    description=description,
                    model_id=model_id,
                )
                version = Version.of(created)
            registered = json.dumps([{"name": name, "version": version.version}])
            tags = {MLFLOW_MODEL_VERSIONS: registered}
            self.client.set_logged_model_tags(version.model_id, tags)
            self.client.set_registered_model_alias(name, "challenger", version.version)
        return version

    def tag_version(self, version: Version, tags: dict[str, str]) -> None:
        """Set tags of a version, cut to what MLflow accepts."""
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, key, value[:5000])

    def set_description(self, version: Version, markdown: str) -> None:
        """Set the description on the version's page."""
        self.client.update_model_version(version.name, version.version, markdown)

    def set_notification_targets(self, name: str, targets: dict[str, str]) -> None:
        """Set where every promotion of `name` is notified: see flows/registry/notifications.py."""
        self.client.set_registered_model_tag(name, TARGETS, json.dumps(targets, sort_keys=True))

    def count_test_set_use(self, name: str, *, test_set: str, bundle: str) -> int:
        """The number of the bundle's verdict on this test set, from 1; a bundle keeps its number.

        Counted in the store, so for all workers and workspaces together.
        """
        key = f"reseed.test_set_uses.{test_set[:32]}"
        with self.lock(name) as held:
            bundles = self.client.get_registered_model(name).tags.get(key, "").split()
            if bundle[:12] not in bundles:
                bundles.append(bundle[:12])
                held()
                self.client.set_registered_model_tag(name, key, " ".join(bundles[-MOST_USES:]))
            return bundles.index(bundle[:12]) + 1

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[Held]:
        """Hold the lock of `name`; the body gets a function that raises LockLost once it is lost.

        A passing fault of the store in the body is raised as TransientError, and so is a row that
        another process, which has lost the lock, wrote at the same time: the body may be repeated.
        """
        with registry_lock(self.settings, name) as held:
            try:
                yield held
            except MlflowException as e:
                # BAD_REQUEST is an error of SQLAlchemy
                if e.error_code not in {"TEMPORARILY_UNAVAILABLE", "BAD_REQUEST"}:
                    raise
                raise TransientError(f"MLflow at {self.settings.store}: {e}") from None


def promotion_key(name: str, digest: str) -> str:
    """The key under which a bundle is registered once per project."""
    return hashlib.sha256(f"{name}\0{digest}".encode()).hexdigest()[:32]


def require_champion(registry: Registry, name: str) -> Version:
    """The champion of `name`. Raises UserError, with the nearest name, where there is none."""
    champion = registry.champion(name)
    if champion is not None:
        return champion
    registry.require_model(name)
    last = registry.last_champion(name)
    if last is None:
        raise UserError(
            f"{name!r} has no champion yet: `reseed status {name}` shows why no version was promoted"
        )
    raise UserError(
        f"{name!r} has no champion any more, as its alias or version was deleted: "
        f"`reseed promote {name} {last.version} --reason ...` restores the last one"
    )
