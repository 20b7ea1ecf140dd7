"""The registry on real stores, SQLite and PostgreSQL: one version a bundle, one champion, whoever is killed or races."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.registry import admin, promotion, pruning
from flows.registry import verify as verdicts
from flows.registry.client import Registry, Version, promotion_key, require_champion
from flows.registry.promotion import ChampionMoved
from flows.registry.promotion_log import Intent
from flows.retraining import decision
from flows.settings import Settings
from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError
from tasks.figures import Interval
from tasks.model.bundle import BundleRef, Classifier, check_bundle
from tasks.verdict import evidence, model
from tasks.workspace import Workspace
from tests.conftest import Command
from tests.kit import toy
from tests.kit.registry import PROBE, Store
from tests.kit.verdicts import answered, question


class TestRegistering:
    def test_twice_is_one_version(self, store: Store, bundles: list[BundleRef]) -> None:
        first, again = store.register(bundles[0]), store.register(bundles[0])
        assert first == again and first.version == "1" and first.digest == bundles[0].digest
        assert [v.version for v in store.registry.versions("toy")] == [
            "1"
        ] and store.registry.model_names() == ["toy"]
        assert len(store.client.search_logged_models([store.experiment])) == 1
        assert first.run_id == store.run_id and store.aliases() == {"challenger": "1"}

    def test_another_bundle_is_another_version_and_the_challenger(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        for i in range(3):
            assert store.register(bundles[i]).version == str(i + 1)
            assert store.aliases() == {"challenger": str(i + 1)}
        assert [v.version for v in store.registry.versions("toy")] == ["3", "2", "1"]
        assert store.register(bundles[0]).version == "1" and store.aliases() == {"challenger": "1"}

    def test_another_project_has_its_own(self, store: Store, bundles: list[BundleRef]) -> None:
        versions = [store.register(bundles[0], name) for name in ("toy", "other")]
        assert [(v.name, v.version) for v in versions] == [("toy", "1"), ("other", "1")]
        assert store.registry.model_names() == ["other", "toy"]

    def test_a_pending_model_is_passed_over(self, store: Store, bundles: list[BundleRef]) -> None:
        """A kill within log_model leaves one, and it can't be loaded."""
        tags = {"reseed.promotion_key": promotion_key("toy", bundles[0].digest)}
        pending = store.client.create_logged_model(
            store.experiment, name="model", source_run_id=store.run_id, tags=tags
        )
        version = store.register(bundles[0])
        models = {
            m.model_id: str(m.status) for m in store.client.search_logged_models([store.experiment])
        }
        assert models.pop(pending.model_id) == "PENDING" and list(models.values()) == ["READY"]
        assert next(iter(models)) in str(store.stored(version))
        check_bundle(store.registry.fetch(version), digest=bundles[0].digest)

    def test_a_stop_before_the_version_was_made_logs_no_second_model(
        self, store: Store, bundles: list[BundleRef], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as m:
            m.setattr(MlflowClient, "create_model_version", stop)
            with pytest.raises(KeyboardInterrupt):
                store.register(bundles[0])
        assert store.registry.champion("toy") is None
        assert store.register(bundles[0]).version == "1"
        assert len(store.client.search_logged_models([store.experiment])) == 1

    def test_the_registered_model_answers_as_a_pyfunc(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        """What `mlflow models serve` loads."""
        import mlflow.pyfunc
        import pandas as pd

        store.register(bundles[0])
        texts = [r["text"] for r in toy.real_rows(3)]
        told = mlflow.pyfunc.load_model("models:/toy/1").predict(pd.DataFrame({"text": texts}))
        ours = Classifier.load(bundles[0].directory).predict(texts)
        assert list(told["label"]) == [p.label for p in ours]
        assert list(told["score"]) == pytest.approx([p.score for p in ours], abs=1e-5)


@pytest.mark.usefixtures("unasked")
class TestPromoting:
    def test_champion_and_previous(
        self, store: Store, bundles: list[BundleRef], unasked: list[Path]
    ) -> None:
        one, two, three = (store.register(b) for b in bundles[:3])
        store.promote(one, None)
        assert store.aliases() == {"challenger": "3", "champion": "1"}
        store.promote(two, one)
        assert store.aliases() == {"challenger": "3", "champion": "2", "previous": "1"}
        store.promote(three, two)
        assert store.aliases() == {"challenger": "3", "champion": "3", "previous": "2"}
        assert store.moves() == [(None, "1"), ("1", "2"), ("2", "3")]
        champion = require_champion(store.registry, "toy")
        assert (
            champion.version == "3"
            and champion.tags["reseed.promoted_at"] == store.log().promotions[-1].when
        )
        assert [check_bundle(p) is not None and p.name for p in unasked] == [
            b.digest[:32] for b in bundles[:3]
        ]

    def test_what_is_champion_already_stays(self, store: Store, bundles: list[BundleRef]) -> None:
        one, two = (store.register(b) for b in bundles[:2])
        store.promote(one, None)
        store.promote(two, one)
        store.promote(two, one)
        assert (
            store.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
            and len(store.moves()) == 2
        )

    def test_it_stops_when_the_alias_moved(self, store: Store, bundles: list[BundleRef]) -> None:
        one, two, three = (store.register(b) for b in bundles[:3])
        store.promote(one, None)
        with pytest.raises(
            ChampionMoved,
            match="version 2 was compared with no champion, but the champion is now version 1",
        ):
            store.promote(two, None)
        store.promote(two, one)
        with pytest.raises(
            ChampionMoved,
            match="version 3 was compared with version 1, but the champion is now version 2",
        ):
            store.promote(three, one)
        store.client.delete_registered_model_alias("toy", "champion")
        with pytest.raises(ChampionMoved, match="the champion is now gone"):
            store.promote(three, two)
        assert store.aliases() == {"challenger": "3", "previous": "1"}
        assert len(store.moves()) == 2, "nothing was meant, so nothing is in the journal"

    def test_a_tampered_version_is_not_promoted(
        self, store: Store, bundles: list[BundleRef], unasked: list[Path]
    ) -> None:
        one, two = (store.register(b) for b in bundles[:2])
        store.promote(one, None)
        flip(store.stored(two) / "model.safetensors")
        with pytest.raises(CorruptDirectory, match="differs from its manifest"):
            store.promote(two, one)
        assert store.aliases()["champion"] == "1" and len(store.moves()) == len(unasked) == 1

    def test_where_each_workspace_has_a_lock_of_its_own_one_of_them_promotes(
        self, sqlite: Store, bundles: list[BundleRef], tmp_path: Path
    ) -> None:
        """As with an MLflow server over HTTP."""
        server, versions = "http://mlflow.example:5000", [sqlite.register(b) for b in bundles[:3]]

        def at(folder: str, lock: str = "") -> Registry:
            return Registry(sqlite.client, Settings(Workspace(tmp_path / folder), server, lock))

        promotion.promote(at("one"), versions[0], expected=None, reason="better", **PROBE)
        promotion.promote(at("one"), versions[1], expected=versions[0], reason="better", **PROBE)
        told: dict[str, Any] = {"expected": versions[1], "reason": "better", **PROBE}
        with pytest.raises(
            UserError,
            match=r"promoted last in the workspace .*/one, .*each workspace has its own lock.*RESEED_LOCK",
        ):
            promotion.promote(at("two"), versions[2], **told)
        assert sqlite.moves() == [(None, "1"), ("1", "2")]
        promotion.promote(at("two", "file"), versions[2], **told)
        assert sqlite.moves()[-1] == ("2", "3")
        with pytest.raises(UserError, match=r"promoted last in the workspace .*/two"):
            promotion.promote(at("one"), versions[0], **told | {"expected": versions[2]})

    def test_require_champion_says_what_is_missing(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        with pytest.raises(UserError, match=r"no model 'toy'.*reseed retrain"):
            require_champion(store.registry, "toy")
        version = store.register(bundles[0])
        with pytest.raises(UserError, match="'toy' has no champion yet"):
            require_champion(store.registry, "toy")
        store.promote(version, None)
        with pytest.raises(UserError, match=r"no model 'toi' .did you mean 'toy'"):
            require_champion(store.registry, "toi")


@pytest.mark.usefixtures("unasked")
class TestReconciling:
    @pytest.fixture
    def pair(self, store: Store, bundles: list[BundleRef]) -> tuple[Version, Version]:
        """Version 1, which is champion, and 2."""
        one, two = (store.register(b) for b in bundles[:2])
        store.promote(one, None)
        return one, two

    def killed(self, store: Store, old: str | None = "1", new: str = "2") -> None:
        """Leave the journal as a kill does that falls after the intent was written."""
        when = "2026-01-02T03:04:05.000006+00:00"
        Intent(name="toy", new=new, old=old, reason="better", when=when, number=2).write(
            store.client
        )

    def test_an_open_journal_is_finished(self, store: Store, pair: Any) -> None:
        self.killed(store)
        assert promotion.reconcile(store.registry, "toy")[0].startswith(
            "toy: finished the promotion of version 2, begun at 2026"
        )
        assert store.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
        assert (
            store.moves() == [(None, "1"), ("1", "2")]
            and promotion.reconcile(store.registry, "toy") == []
        )

    def test_one_whose_aliases_were_set_is_closed(self, store: Store, pair: Any) -> None:
        self.killed(store)
        store.client.set_registered_model_alias("toy", "champion", "2")
        promotion.reconcile(store.registry, "toy")
        assert store.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
        assert store.moves() == [(None, "1"), ("1", "2")]

    @pytest.mark.parametrize("alias", ["previous", "champion"])
    def test_a_fault_between_the_aliases(
        self,
        alias: str,
        store: Store,
        pair: tuple[Version, Version],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = MlflowClient.set_registered_model_alias

        def fault(self: MlflowClient, name: str, which: str, version: str) -> None:
            if which == alias:
                raise TransientError("the store is gone")
            real(self, name, which, version)

        with monkeypatch.context() as m:
            m.setattr(MlflowClient, "set_registered_model_alias", fault)
            with pytest.raises(TransientError, match="gone"):
                store.promote(pair[1], pair[0])
        assert [i.new for i in store.log().intents] == ["2"] and store.aliases()["champion"] == "1"
        promotion.reconcile(store.registry, "toy")
        assert store.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}

    def test_it_is_abandoned_when_the_alias_moved_elsewhere(
        self, store: Store, pair: Any, bundles: list[BundleRef]
    ) -> None:
        self.killed(store)
        three = store.register(bundles[2])
        store.client.set_registered_model_alias("toy", "champion", three.version)
        assert "dropped the promotion of version 2" in promotion.reconcile(store.registry, "toy")[0]
        assert store.aliases()["champion"] == "3" and store.moves() == [(None, "1")]

    @pytest.mark.parametrize("deleted", ["1", "2"])
    def test_it_is_abandoned_when_a_version_of_it_was_deleted(
        self, deleted: str, store: Store, pair: Any
    ) -> None:
        self.killed(store)
        if deleted == "1":
            store.client.set_registered_model_alias("toy", "champion", "2")
        store.client.delete_model_version("toy", deleted)
        promotion.reconcile(store.registry, "toy")
        assert store.aliases()["champion"] == ("2" if deleted == "1" else "1")
        assert store.moves() == [(None, "1")]

    def test_a_promotion_reconciles_first(
        self, store: Store, pair: tuple[Version, Version], bundles: list[BundleRef]
    ) -> None:
        self.killed(store)
        three = store.register(bundles[2])
        with pytest.raises(ChampionMoved, match="now version 2"):
            store.promote(three, pair[0])
        store.promote(three, pair[1])
        assert store.aliases() == {"challenger": "3", "champion": "3", "previous": "2"}

    def test_another_workspace_finishes_it(
        self, store: Store, pair: Any, bundles: list[BundleRef], tmp_path: Path
    ) -> None:
        """The journal is where the aliases are, so no promotion of others falls between, and none is done too late."""
        self.killed(store)
        other = Registry(
            store.client, Settings(Workspace(tmp_path / "other"), store.settings.tracking_uri)
        )
        three = store.register(bundles[2])
        with pytest.raises(ChampionMoved, match="now version 2"):
            promotion.promote(other, three, expected=pair[0], reason="better", **PROBE)
        promotion.promote(other, three, expected=pair[1], reason="better", **PROBE)
        assert store.moves() == [(None, "1"), ("1", "2"), ("2", "3")]

    def test_what_others_have_overtaken_is_dropped(
        self, store: Store, pair: Any, bundles: list[BundleRef]
    ) -> None:
        """The champion is again the one that the intent knows, but not any more the one that it was meant against."""
        store.promote(store.register(bundles[2]), pair[0])
        admin.roll_back(store.settings, "toy", reason="back")
        self.killed(
            store
        )  # a holder that was stopped, lost the lock, and wrote its intent after all
        assert "others were promoted since" in promotion.reconcile(store.registry, "toy")[0]
        assert store.aliases()["champion"] == "1" and len(store.moves()) == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestFetching:
    @pytest.fixture
    def store(self, sqlite: Store) -> Store:
        return sqlite

    def test_the_bundle_is_verified_and_kept(self, store: Store, bundles: list[BundleRef]) -> None:
        version = store.register(bundles[0])
        got = store.registry.fetch(version)
        assert check_bundle(got, digest=bundles[0].digest)["max_length"] == 32
        shutil.rmtree(store.stored(version))
        assert store.registry.fetch(version) == got, "what lies here is not downloaded again"
        assert not list((store.settings.workspace.home / "scratch" / "fetch").iterdir())

    def test_a_version_that_is_not_ours_is_refused(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        store.register(bundles[0])
        store.client.create_model_version("toy", str(bundles[0].directory.parent))
        foreign = store.registry.versions("toy")[0]
        assert foreign.version == "2"
        with pytest.raises(CorruptDirectory, match=r"version 2 has no tag reseed\.bundle"):
            store.registry.fetch(foreign)

    @pytest.mark.parametrize("how", ["flipped", "added code", "exchanged", "gone"])
    def test_a_tampered_version_is_refused(
        self, how: str, store: Store, bundles: list[BundleRef]
    ) -> None:
        version = store.register(bundles[0])
        stored = store.stored(version)
        if how == "flipped":
            flip(stored / "model.safetensors")
        elif how == "added code":
            (stored / "modeling.py").write_text("1")
        else:
            shutil.rmtree(stored)
            if how == "exchanged":  # another bundle, whole in itself
                shutil.copytree(bundles[1].directory, stored)
        with pytest.raises(CorruptDirectory):
            store.registry.fetch(version)
        assert not list((store.settings.workspace.home / "serving").rglob("*.safetensors"))
        assert not list((store.settings.workspace.home / "scratch" / "fetch").iterdir())

    def test_a_copy_that_was_tampered_with_is_fetched_anew(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        version = store.register(bundles[0])
        got = store.registry.fetch(version)
        flip(got / "model.safetensors")
        assert store.registry.fetch(version) == got
        check_bundle(got, digest=bundles[0].digest)
        assert len(list(got.parent.glob(f"{got.name}.corrupt-*"))) == 1


@pytest.mark.slow
class TestFreshProcess:
    def test_a_version_that_loads_and_answers_is_promoted(
        self, sqlite: Store, bundles: list[BundleRef]
    ) -> None:
        sqlite.promote(sqlite.register(bundles[0]), None)
        assert sqlite.aliases()["champion"] == "1"

    @pytest.mark.parametrize("how", ["weights of another shape", "a label too many"])
    def test_one_that_does_not_is_kept_out(
        self, how: str, sqlite: Store, bundles: list[BundleRef], tmp_path: Path
    ) -> None:
        """The manifest is whole, and still no process can answer with it."""
        broken = Path(shutil.copytree(bundles[0].directory, tmp_path / "bundle"))
        told = atomic.read_json(broken / "config.json")
        if how == "weights of another shape":
            told["hidden_size"] = 64
        else:
            told["id2label"] = dict.fromkeys(told["id2label"], "stone")
        (broken / "config.json").write_text(json.dumps(told))
        version = sqlite.register(BundleRef(broken, atomic.seal(broken)))
        with pytest.raises(CorruptDirectory, match="new process"):
            sqlite.promote(version, None)
        assert sqlite.aliases() == {"challenger": "1"} and sqlite.moves() == []


@pytest.mark.usefixtures("unasked")
class TestHistory:
    @pytest.fixture
    def three(self, store: Store, bundles: list[BundleRef]) -> list[Version]:
        """Versions 1 to 3; each but the last was champion once, 2 is it."""
        found = [store.register(b) for b in bundles[:3]]
        store.promote(found[0], None)
        store.promote(found[1], found[0])
        return found

    def test_a_row_a_promotion(self, store: Store, three: list[Version]) -> None:
        store.promote(
            three[1], three[0]
        )  # it is champion already: nothing happens, and nothing is written
        report = admin.roll_back(store.settings, "toy", reason="it answers worse", by="ada")
        assert report.version == "1" and store.aliases() == {
            "challenger": "3",
            "champion": "1",
            "previous": "2",
        }
        history = admin.read_history(store.settings, "toy")
        rows = [(r.number, r.version, r.before, r.kind, r.who, r.reason) for r in history.history]
        assert rows == [
            (1, "1", None, "verdict", "", "better"),
            (2, "2", "1", "verdict", "", "better"),
            (3, "1", "2", "rollback", "ada", "it answers worse"),
        ]
        assert [r.bundle for r in history.history] == [three[i].digest for i in (0, 1, 0)]
        assert history.inconsistencies == [] and history.champion == "1"

    def test_a_rollback_goes_forth_again_and_gives_the_same_files(
        self, store: Store, three: list[Version]
    ) -> None:
        before = check_bundle(store.registry.fetch(three[1]), digest=three[1].digest)
        for _ in range(2):
            admin.roll_back(store.settings, "toy", reason="back")
        assert store.aliases()["champion"] == "2"
        assert check_bundle(store.registry.fetch(require_champion(store.registry, "toy"))) == before

    def test_by_hand(self, store: Store, three: list[Version]) -> None:
        assert (
            admin.promote_by_hand(
                store.settings, "toy", "3", reason="the board wants it", by="ada"
            ).before
            == "2"
        )
        assert (
            store.aliases()["champion"] == "3"
            and store.registry.history("toy")[-1].kind == "by hand"
        )
        with pytest.raises(UserError, match="version 3 of 'toy' is the champion already"):
            admin.promote_by_hand(store.settings, "toy", "3", reason="again")
        with pytest.raises(UserError, match=r"'toy' has no version '9' \(existing: 1, 2, 3\)"):
            admin.promote_by_hand(store.settings, "toy", "9", reason="why not")
        with pytest.raises(UserError, match="--reason is empty"):
            admin.promote_by_hand(store.settings, "toy", "1", reason="  ")
        with pytest.raises(UserError, match=r"no model 'toi'.*did you mean 'toy'"):
            admin.promote_by_hand(store.settings, "toi", "1", reason="why not")

    def test_a_version_that_a_person_took_back_or_refused_is_named_with_the_reason(
        self, store: Store, three: list[Version]
    ) -> None:
        one, three_ = three[0], three[2]
        registry, overrules = store.registry, "`reseed promote toy {} --reason ...` overrules it"
        assert [registry.refusal(v) for v in three] == [None, None, None], (
            "1 had to give way to a verdict"
        )
        admin.roll_back(store.settings, "toy", reason="it is rude", by="ada")
        said = "version 2 was rolled back by ada: it is rude; " + overrules.format(2)
        assert [registry.refusal(v) for v in three] == [None, said, None]
        store.promote(three_, one)
        assert [registry.refusal(v) for v in three] == [None, said, None], (
            "another's promotion changes nothing"
        )
        admin.promote_by_hand(store.settings, "toy", "2", reason="it was not so rude", by="bob")
        replaced = (
            "version 3 was replaced by version 2 by bob: it was not so rude; " + overrules.format(3)
        )
        assert [registry.refusal(v) for v in three] == [None, None, replaced]

        registry.tag_version(one, {"reseed.refused_by": "ada", "reseed.refused_because": "not now"})
        refused = "version 1 was refused by ada: not now; " + overrules.format(1)
        assert registry.refusal(one) == refused
        admin.promote_by_hand(store.settings, "toy", "1", reason="now")
        assert registry.refusal(one) is None
        store.promote(three_, one)
        assert registry.refusal(one) is None, "what was overruled is not said again"

    def test_a_tampered_version_is_not_gone_back_to(
        self, store: Store, three: list[Version]
    ) -> None:
        shutil.rmtree(
            store.settings.workspace.home / "serving"
        )  # what this machine fetched and checked before
        flip(store.stored(three[0]) / "model.safetensors")
        with pytest.raises(
            UserError,
            match=r"version 1 of 'toy' cannot be the champion: .*differs from its manifest",
        ):
            admin.roll_back(store.settings, "toy", reason="back")
        assert store.aliases()["champion"] == "2"

    def test_the_first_champion_has_nothing_before_it(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        store.promote(store.register(bundles[0]), None)
        with pytest.raises(UserError, match="no version to go back to"):
            admin.roll_back(store.settings, "toy", reason="back")

    def test_an_alias_that_was_moved_or_deleted_is_seen(
        self, store: Store, three: list[Version]
    ) -> None:
        store.client.set_registered_model_alias("toy", "champion", "3")
        assert (
            "is version 3, but version 2 was promoted last"
            in admin.read_history(store.settings, "toy").inconsistencies[0]
        )
        store.client.delete_registered_model_alias("toy", "champion")
        assert (
            "is gone, but version 2 was promoted last"
            in admin.read_history(store.settings, "toy").inconsistencies[0]
        )
        last = store.registry.last_champion("toy")
        assert last is not None and last.version == "2", (
            "a champion without its alias was not beaten"
        )

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ("row 2 changed", "row 3 does not follow row 2"),
            ("row 2 taken away", "a row is missing before row 3"),
            ("row 2 no row", "row 2 is unreadable: it was changed"),
            ("row 3 changed", "the row of version 3 was changed or deleted"),
            ("row 3 taken away", "the row of version 3 was changed or deleted"),
            ("all taken away", "the row of version 3 was changed or deleted"),
        ],
    )
    def test_a_row_that_was_tampered_with_is_seen(
        self, how: str, said: str, store: Store, three: list[Version]
    ) -> None:
        store.promote(three[2], three[1])
        for number in (1, 2, 3):
            key = f"reseed.history.{number:06d}"
            if how in {f"row {number} taken away", "all taken away"}:
                store.client.delete_registered_model_tag("toy", key)
            elif how == f"row {number} no row":
                store.client.set_registered_model_tag("toy", key, '{"number": [2]}')
            elif how == f"row {number} changed":
                row = json.loads(store.client.get_registered_model("toy").tags[key])
                store.client.set_registered_model_tag(
                    "toy", key, json.dumps(row | {"who": "nobody"})
                )
        assert any(
            said in sentence
            for sentence in admin.read_history(store.settings, "toy").inconsistencies
        )
        admin.roll_back(store.settings, "toy", reason="what was changed stops no promotion")
        assert (
            store.aliases()["champion"] == "2"
            and store.registry.history("toy")[-1].kind == "rollback"
        )

    def test_a_promotion_that_was_cut_off_is_seen_even_after_the_next_one(
        self, store: Store, three: list[Version]
    ) -> None:
        """Its row is gone and the aliases are as before: what is left is a history whole in itself."""
        said = "the row of version 2 was changed or deleted since it was promoted"
        store.client.delete_registered_model_tag("toy", "reseed.history.000002")
        store.client.set_registered_model_alias("toy", "champion", "1")
        store.client.delete_registered_model_alias("toy", "previous")
        assert store.moves() == [(None, "1")] and admin.read_history(
            store.settings, "toy"
        ).inconsistencies == [said]
        store.promote(three[2], three[0])
        assert store.moves() == [(None, "1"), ("1", "3")] and store.registry.inconsistencies(
            "toy"
        ) == [said]

    def test_where_the_alias_was_deleted_a_rollback_goes_to_what_was_promoted_last(
        self, store: Store, three: list[Version]
    ) -> None:
        store.client.delete_registered_model_alias("toy", "champion")
        with pytest.raises(
            UserError, match=r"no champion any more.*`reseed promote toy 2 --reason ...`"
        ):
            require_champion(store.registry, "toy")
        store.promote(three[2], None)
        assert store.aliases()["previous"] == "2"
        assert admin.roll_back(store.settings, "toy", reason="back").version == "2"

    def test_a_version_that_was_deleted_is_said(self, store: Store, three: list[Version]) -> None:
        store.client.delete_model_version("toy", "2")
        (said,) = admin.read_history(store.settings, "toy").inconsistencies
        assert said == "version 2, which was promoted last, was deleted; the alias champion is gone"
        last = store.registry.last_champion("toy")
        assert last is not None and last.version == "1"

    def test_a_kill_before_the_row_was_written(
        self, store: Store, three: list[Version], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = MlflowClient.set_registered_model_tag

        def fault(self: MlflowClient, name: str, key: str, value: str) -> None:
            if key.startswith("reseed.history."):
                raise KeyboardInterrupt
            real(self, name, key, value)

        with monkeypatch.context() as m:
            m.setattr(MlflowClient, "set_registered_model_tag", fault)
            with pytest.raises(KeyboardInterrupt):
                store.promote(three[2], three[1])
        assert store.aliases()["champion"] == "3" and len(store.registry.history("toy")) == 2
        for _ in range(2):
            promotion.reconcile(store.registry, "toy")
        assert [r.version for r in store.registry.history("toy")] == ["1", "2", "3"]
        assert admin.read_history(store.settings, "toy").inconsistencies == []


@pytest.mark.usefixtures("unasked")
class TestVerifying:
    @pytest.fixture
    def store(self, sqlite: Store) -> Store:
        return sqlite

    @pytest.fixture
    def pair(self, store: Store, bundles: list[BundleRef]) -> list[Version]:
        """Versions 1 and 2, each with the evidence of its promotion; 2 is champion."""
        pair = [store.register(b) for b in bundles[:2]]
        self.judged(store, pair[0], {"baseline": "majority"})
        store.promote(pair[0], None)
        self.judged(store, pair[1], {"bundle": pair[0].digest})
        store.promote(pair[1], pair[0])
        return pair

    def judged(
        self, store: Store, version: Version, opponent: dict[str, str], *, wrong: int = 6
    ) -> None:
        """Record a verdict with its evidence, as a retrain does."""
        workspace, sealed = store.settings.workspace, {"sealed": "c" * 64}
        mine = answered(
            workspace.home, "challenger", wrong=wrong, read={"bundle": version.digest, **sealed}
        )
        theirs = answered(workspace.home, "opponent", wrong=40, read={**opponent, **sealed})
        judged = evidence.judge(mine, theirs, question(), workspace=workspace)
        tags = {"reseed.stage": "verdict", "reseed.digest": judged.digest}
        run_id = store.client.create_run(store.experiment, tags=tags).info.run_id
        for path in judged.directory.iterdir():
            store.client.log_artifact(run_id, str(path))
        told = {
            "verdict": judged.verdict.decision,
            "evidence": judged.digest,
            "evidence_run": run_id,
        }
        store.registry.tag_version(version, {f"reseed.{key}": value for key, value in told.items()})

    def test_each_version_and_promotion(
        self, store: Store, pair: list[Version], reseed: Command
    ) -> None:
        for version, number in [(None, None), ("1", None), ("2", None), (None, 1), ("2", 2)]:
            found = verdicts.verify_verdict(store.settings, "toy", version, promotion=number)
            assert found.same and found.disagreements == [] and found.verdict == "promote"
            assert (
                found.verification and found.verification.read["challenger"]["sealed"] == "c" * 64
            )
        with pytest.raises(
            UserError, match=r"no promotion 7 .existing: 1 of version 1, 2 of version 2."
        ):
            verdicts.verify_verdict(store.settings, "toy", promotion=7)
        with pytest.raises(UserError, match=r"no promotion 1 of version 2"):
            verdicts.verify_verdict(store.settings, "toy", "2", promotion=1)
        assert reseed("verify", "toy", "--promotion", "1")[:1] == (0,)

    def test_a_promotions_evidence_is_found_after_the_version_was_judged_again(
        self, store: Store, pair: list[Version]
    ) -> None:
        self.judged(store, pair[0], {"bundle": pair[1].digest}, wrong=90)
        assert verdicts.verify_verdict(store.settings, "toy", "1").verdict == "keep"
        found = verdicts.verify_verdict(store.settings, "toy", promotion=1)
        assert found.same and found.verdict == "promote" and found.disagreements == []

    def test_evidence_of_another_version(
        self, store: Store, pair: list[Version], reseed: Command
    ) -> None:
        tags = store.registry.version("toy", "1").tags
        store.registry.tag_version(
            pair[1], {key: tags[key] for key in ("reseed.evidence", "reseed.evidence_run")}
        )
        code, out, _ = reseed("verify", "toy")
        one, two = (v.digest[:12] for v in pair)
        assert code == 1 and "byte for byte" not in out
        assert f"warning: the evidence is of bundle {one}, and version 2 is bundle {two}" in out
        assert "warning: promotion 2 was of bundle" in out
        assert f"compares with a baseline, and promotion 2 replaced version 1, bundle {one}" in out

    def test_another_verdict_than_the_evidences(self, store: Store, pair: list[Version]) -> None:
        store.registry.tag_version(pair[0], {"reseed.verdict": "inconclusive"})
        (said,) = verdicts.verify_verdict(store.settings, "toy", "1").disagreements
        assert (
            said
            == "the verdict on version 1 is recorded as inconclusive, the evidence says promote"
        )

    def test_a_verdict_without_evidence_leaves_none_of_an_older_one(
        self, store: Store, pair: list[Version]
    ) -> None:
        scores = SimpleNamespace(f1_macro=Interval(value=0.5, ci_low=0.4, ci_high=0.6))
        run: Any = SimpleNamespace(
            registry=store.registry, tracking=SimpleNamespace(run_id="a run")
        )
        candidate: Any = SimpleNamespace(version=pair[1], score=SimpleNamespace(known=scores))
        decision._record(
            run, candidate, model.inconclusive("not promoted: its files differ", "version 1"), None
        )
        with pytest.raises(UserError, match="version 2 of 'toy' has no evidence"):
            verdicts.verify_verdict(store.settings, "toy", "2")


@pytest.mark.usefixtures("unasked")
class TestPruning:
    def test_champions_their_history_and_the_newest_stay(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        versions = [store.register(b) for b in bundles]
        store.promote(versions[0], None)
        store.promote(versions[3], versions[0])
        places = {v.version: store.stored(v) for v in versions}
        planned = pruning.prune(store.settings, "toy", keep=1, really=False)
        assert planned.would_remove == ["5", "3", "2"] and planned.kept == ["6", "4", "1"]
        assert len(store.registry.versions("toy")) == 6, "without --yes nothing goes"
        assert pruning.prune(store.settings, "toy", keep=1, really=True).removed == ["5", "3", "2"]
        assert [v.version for v in store.registry.versions("toy")] == ["6", "4", "1"]
        assert {v for v, place in places.items() if place.exists()} == {"6", "4", "1"}
        for v in store.registry.versions("toy"):
            check_bundle(store.registry.fetch(v), digest=v.digest)
        assert pruning.prune(store.settings, "toy", keep=1, really=True).removed == []

    def test_a_version_that_is_not_ours_takes_no_files_along(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        """As `Register model` in MLflow's UI makes one of a run: it has no digest, and the champion's files are its own."""
        one = store.register(bundles[0])
        store.promote(one, None)
        source = store.client.get_model_version("toy", "1").source
        assert store.client.create_model_version("toy", source).version in {2, "2"}
        store.register(bundles[1])
        fetched = store.registry.fetch(one)
        report = pruning.prune(store.settings, "toy", keep=1, really=True)
        assert report.removed == ["2"] and report.mib == 0
        assert report.stayed == [
            f"the files of version 2 stay at {source}: Reseed did not register it"
        ]
        assert fetched.exists() and check_bundle(store.stored(one), digest=one.digest)

    def test_files_on_s3_go_too_or_it_is_said_that_they_stay(
        self, home: Path, s3: Any, bundles: list[BundleRef], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

        store = Store(
            Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}"),
            artifacts="s3://bucket/toy",
        )
        for b in bundles[:3]:
            store.register(b)

        def there() -> set[str]:
            listed = s3.list_objects_v2(Bucket="bucket").get("Contents", [])
            return {
                key
                for v in ("1", "2", "3")
                for key in [sources[v]]
                if any(key in o["Key"] for o in listed)
            }

        sources = {
            v: f"toy/models/{store.registry.version('toy', v).model_id}/" for v in ("1", "2", "3")
        }
        assert there() == set(sources.values())

        def refuse(self: Any, artifact_path: str | None = None) -> None:
            raise PermissionError("you may not delete here")

        with store.registry.lock("toy"), monkeypatch.context() as m:
            m.setattr(S3ArtifactRepository, "delete_artifacts", refuse)
            said = pruning.delete_version(store.registry, store.registry.version("toy", "1"))
        assert (
            said
            and "the files of version 1 stay at s3://bucket/toy/" in said
            and "you may not delete here" in said
        )
        assert pruning.prune(store.settings, "toy", keep=1, really=True).stayed == []
        assert there() == {sources["1"], sources["3"]}

    def test_the_champion_is_not_deleted(self, store: Store, bundles: list[BundleRef]) -> None:
        one, two = (store.register(b) for b in bundles[:2])
        store.promote(one, None)
        with pytest.raises(
            UserError, match="version 1 of 'toy' is its champion: it is not deleted"
        ):
            pruning.delete_version(store.registry, one)
        with pytest.raises(
            UserError, match="version 2 of 'toy' is its challenger: it is not deleted"
        ):
            pruning.delete_version(store.registry, two)
