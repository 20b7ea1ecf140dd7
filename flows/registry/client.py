"""The model registry: register, champion, promote, reconcile. Idempotent, single writer.

MLflow's aliases are last-writer-wins. So a promotion holds a lock (flock beside a SQLite store, an advisory lock on
PostgreSQL), reads the alias again, stops when it moved since the evaluation, and carries out what flows/registry/promotion.py tells.
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

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from flows.registry import promotion_log
from flows.registry.lock import Held, registry_lock
from flows.registry.promotion_log import LogEntry, PromotionLog
from flows.settings import Settings
from flows.tracking.logged_model import delete_model_files, find_or_log_model
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError, suggestion
from tasks.model.bundle import check_bundle

_MODEL = "reseed.model"
HOOKS = "reseed.hooks"
MOST_USES = (
    350  # bundles that a tag holds; long before as many verdicts no level is left to promote at
)


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version and the digest its bundle must have."""

    name: str
    version: str
    digest: str
    run_id: str
    tags: dict[str, str]

    @classmethod
    def of(cls, mv: ModelVersion) -> Version:
        return cls(
            mv.name,
            str(mv.version),
            mv.tags.get("reseed.bundle", ""),
            mv.run_id or "",
            dict(mv.tags),
        )

    @property
    def model_id(self) -> str:
        """The id of its logged model, which a SQL store does not keep with the version."""
        return self.tags.get(_MODEL, "")


class Registry:
    """The versions of the projects in one MLflow store."""

    def __init__(self, client: MlflowClient, settings: Settings) -> None:
        self.client, self.settings = client, settings

    # --- reading

    def find_alias(self, name: str, alias: str) -> Version | None:
        """The version that `alias` stands for, or None."""
        try:
            return Version.of(self.client.get_model_version_by_alias(name, alias))
        except MlflowException as e:
            if e.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise TransientError(f"MLflow at {self.settings.store}: {e}") from None

    def aliases(self, name: str) -> dict[str, str]:
        """Each alias of `name` and the version it stands for."""
        return {k: str(v) for k, v in self.client.get_registered_model(name).aliases.items()}

    def champion(self, name: str) -> Version | None:
        return self.find_alias(name, "champion")

    def versions(self, name: str) -> list[Version]:
        """All versions, newest first."""
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self.client.search_model_versions(
                f"name='{name}'", max_results=200, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return [Version.of(v) for v in sorted(found, key=lambda v: -int(v.version))]

    def version(self, name: str, version: str) -> Version:
        """The version of this number. Raises UserError, naming those that there are."""
        found = {v.version: v for v in self.versions(name)}
        if version not in found:
            known = ", ".join(sorted(found, key=int)) or "none"
            raise UserError(
                f"{name!r} has no version {version!r} (there are: {known}); `reseed status {name}` shows them"
            )
        return found[version]

    def model_names(self) -> list[str]:
        return sorted(m.name for m in self.client.search_registered_models(max_results=1000))

    def require_model(self, name: str) -> None:
        """Raises UserError, with the nearest name, when there is no model of this name."""
        names = self.model_names()
        if name not in names:
            known = (
                f"known: {', '.join(names)}"
                if names
                else "there is none yet: `reseed retrain CONFIG` makes one"
            )
            raise UserError(f"there is no model {name!r}{suggestion(name, names)} ({known})")

    def fetch(self, version: Version) -> Path:
        """The version's bundle on this machine, verified against its manifest and the registered digest.

        Raises CorruptDirectory when it differs. Nothing of it is loaded here.
        """
        target = self.settings.workspace.served_bundle(version.name, version.digest)
        if not version.digest:
            raise CorruptDirectory(
                f"{version.name} version {version.version} has no reseed.bundle tag: not ours"
            )
        if target.exists():
            try:
                check_bundle(target, digest=version.digest)
                return target
            except CorruptDirectory:
                target.rename(target.with_name(f"{target.name}.corrupt-{time.time_ns()}"))
        import mlflow.artifacts

        landing = self.settings.workspace.scratch(
            "fetch", f"{version.digest[:16]}-{time.time_ns()}"
        )
        landing.mkdir(parents=True)
        try:
            uri = self.client.get_model_version_download_uri(version.name, version.version)
            got = Path(
                mlflow.artifacts.download_artifacts(
                    f"{uri.rstrip('/')}/artifacts/bundle", dst_path=str(landing)
                )
            )
            check_bundle(got, digest=version.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                got.rename(target)  # another process may have brought it meanwhile
        except (
            MlflowException,
            FileNotFoundError,
            NotADirectoryError,
            shutil.Error,
            RecursionError,
        ) as e:
            said = " ".join(str(e).split())[:500]  # what is no plain file is not copied
            raise CorruptDirectory(
                f"{version.name} version {version.version}: its bundle can't be fetched: {said}"
            ) from None
        finally:
            shutil.rmtree(landing, ignore_errors=True)
        check_bundle(target, digest=version.digest)
        return target

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
        """The version that holds this bundle: found by its promotion key, or made. It gets the alias `challenger`."""
        assert directory.name == "bundle", (
            "MLflow keeps a folder under its own name, and fetch asks for `bundle`"
        )
        key = promotion_key(name, digest)
        with self.lock(name) as held:
            found = next(
                (
                    v
                    for v in self.versions_or_none(name)
                    if v.tags.get("reseed.promotion_key") == key
                ),
                None,
            )
            if found is None:
                model_id = find_or_log_model(
                    self.client, key, directory, name=name, run_id=run_id, labels=labels
                )
                tags = {"reseed.promotion_key": key, "reseed.bundle": digest, _MODEL: model_id}
                with contextlib.suppress(MlflowException):
                    self.client.create_registered_model(name)
                model = self.client.get_logged_model(model_id)
                held()  # logging it took seconds
                mv = self.client.create_model_version(
                    name,
                    model.artifact_location,
                    run_id=run_id,
                    tags=tags,
                    description=description,
                    model_id=model_id,
                )
                found = Version.of(mv)
            versions = [{"name": name, "version": found.version}]
            self.client.set_logged_model_tags(
                found.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(versions)}
            )
            self.client.set_registered_model_alias(name, "challenger", found.version)
        return found

    def versions_or_none(self, name: str) -> list[Version]:
        try:
            return self.versions(name)
        except MlflowException:
            return []

    def delete(self, version: Version) -> str | None:
        """Take a version out of the registry, its logged model and its files; where files stayed, a sentence on where. Call it
        under the lock.

        Files of a version that Reseed did not register stay: they may be another version's. Raises UserError for one that an alias
        stands for: the champion is not deleted.
        """
        names = [a for a, v in self.aliases(version.name).items() if v == version.version]
        if names:
            raise UserError(
                f"version {version.version} of {version.name!r} is its {names[0]}, and stays"
            )
        mv = self.client.get_model_version(version.name, version.version)
        place = str(mv.source or "")
        self.client.delete_model_version(version.name, version.version)
        if version.model_id:
            self.client.delete_logged_model(version.model_id)
        why = (
            delete_model_files(place, within=self.settings.workspace.mlflow_artifacts)
            if version.digest
            else "Reseed did not register it"
        )
        return (
            why
            and f"the files of version {version.version} stay at {place or 'an unknown place'}: {why}"
        )

    def tag_version(self, version: Version, tags: dict[str, str]) -> None:
        """Write what was judged of a version onto it."""
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, key, value[:5000])

    def set_description(self, version: Version, description: str) -> None:
        """What the registry's page says of the version, in Markdown."""
        self.client.update_model_version(version.name, version.version, description)

    def set_notification_targets(self, name: str, hooks: dict[str, str]) -> None:
        """Whom a promotion of `name` is told to, by whatever hand it comes: `webhook` and `export`, see flows/registry/notifications.py."""
        self.client.set_registered_model_tag(name, HOOKS, json.dumps(hooks, sort_keys=True))

    def count_test_set_use(self, name: str, *, test_set: str, bundle: str) -> int:
        """Which verdict on the test set of this digest the bundle's is, from 1; a bundle that is judged again keeps its number.

        It is counted where the aliases are, so for every worker and workspace of one store.
        """
        key = f"reseed.test_set_uses.{test_set[:32]}"
        with self.lock(name) as held:
            said = self.client.get_registered_model(name).tags.get(key, "")
            seen = said.split()
            if bundle[:12] not in seen:
                seen.append(bundle[:12])
                held()
                self.client.set_registered_model_tag(name, key, " ".join(seen[-MOST_USES:]))
            return seen.index(bundle[:12]) + 1

    def history(self, name: str) -> list[LogEntry]:
        """The promotions of `name`, oldest first."""
        return PromotionLog.read(self.client, name).rows

    def inconsistencies(self, name: str) -> list[str]:
        """A sentence on whatever of `name` is not as its history says."""
        champion, found = self.champion(name), PromotionLog.read(self.client, name)
        there = {
            v.version: v.tags.get(promotion_log.ROW) for v in reversed(self.versions_or_none(name))
        }
        return found.inconsistencies(champion.version if champion else None, there=there)

    def refusal(self, version: Version) -> str | None:
        """A sentence where a person took this version back after it was promoted, or refused it: no verdict overrules that."""
        found, tags = (
            PromotionLog.read(self.client, version.name),
            self.version(version.name, version.version).tags,
        )
        row, said = found.taken_back(version.version), None
        if row is not None:
            what = (
                "was taken back"
                if row.kind == "rollback"
                else f"was replaced with version {row.version}"
            )
            said = f"version {version.version} {what} by {row.who}: {row.reason}"
        elif tags.get("reseed.refused_by"):
            by, because = (tags.get(f"reseed.refused_{key}", "") for key in ("by", "because"))
            said = f"version {version.version} was refused by {by}: {because}"
        return (
            said
            and f"{said}; `reseed promote {version.name} {version.version} --reason ...` overrules it"
        )

    def last_champion(self, name: str) -> Version | None:
        """What a challenger has to beat: the champion, or where its alias was deleted the version promoted last that is there.

        A champion whose alias is gone was not beaten by anything.
        """
        champion = self.champion(name)
        if champion is not None:
            return champion
        there = {v.version: v for v in self.versions_or_none(name)}
        return next(
            (there[row.version] for row in reversed(self.history(name)) if row.version in there),
            None,
        )

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[Held]:
        """Hold the lock of `name`. A passing fault of the store meanwhile is a TransientError, and so is a row that somebody who
        has lost the lock wrote in the same moment: whatever is done under the lock can be done again."""
        with registry_lock(self.settings, name) as held:
            try:
                yield held
            except MlflowException as e:
                if e.error_code not in {
                    "TEMPORARILY_UNAVAILABLE",
                    "BAD_REQUEST",
                }:  # the latter: what SQLAlchemy refused
                    raise
                raise TransientError(f"MLflow at {self.settings.store}: {e}") from None


def promotion_key(name: str, digest: str) -> str:
    """What makes registering find-or-create: one version a project and bundle."""
    return hashlib.sha256(f"{name}\0{digest}".encode()).hexdigest()[:32]


def require_champion(registry: Registry, name: str) -> Version:
    """The champion of `name`. Raises UserError, with the nearest name, when there is no such model or champion."""
    found = registry.champion(name)
    if found is None:
        registry.require_model(name)
        standing = registry.last_champion(name)
        if standing is not None:
            raise UserError(
                f"{name!r} has no champion any more: somebody deleted the alias or its version; "
                f"`reseed promote {name} {standing.version} --reason ...` takes the one that was promoted last"
            )
        raise UserError(
            f"{name!r} has no champion yet: `reseed status {name}` shows why its versions were kept out"
        )
    return found
