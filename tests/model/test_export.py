"""What is exported answers as the weights do; what is chosen is the fastest that agrees; a kill leaves no half bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks import atomic
from tasks.errors import UserError
from tasks.model.bundle import BundleRef, Classifier, check_bundle
from tasks.model.inference import choose as choosing
from tasks.model.inference.choose import (
    BackendMeasure,
    Inference,
    choose_backend,
    compare_answers,
    export_bundle,
    pick_backend,
)
from tasks.model.inference.export import CannotExport, export_graphs
from tasks.model.inference.int8 import quantise_columns
from tasks.project import Predict
from tasks.records import Record
from tasks.workspace import Workspace
from tests.kit.stages import splits_of
from tests.model.test_predict import some_texts

pytestmark = pytest.mark.slow  # they train or export models

TEXTS = some_texts(40, 3)


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.float32, (7, 5), elements=st.floats(-100, 100, width=32)))
def test_a_quantised_weight_is_within_half_a_step(weight: np.ndarray) -> None:
    whole, scale = quantise_columns(weight)
    assert whole.dtype == np.int8 and scale.shape == (5,)
    assert (np.abs(whole * scale - weight) <= scale * 0.5001 + 1e-6).all()


def test_the_graphs_answer_as_the_weights(backends: dict[str, Classifier]) -> None:
    reference = backends["torch"].probabilities(TEXTS)
    assert np.abs(backends["onnx"].probabilities(TEXTS) - reference).max() < 1e-4
    found = compare_answers(backends["onnx-int8"].probabilities(TEXTS), reference)
    assert found["agreement"] >= 0.9 and 0 < found["largest_difference"] < 0.1


def test_plain_attention_is_one_operator_and_masked_attention_stays(small_bundle: Path) -> None:
    import onnx_ir as ir

    from tasks.model.inference.attention import fuse_attention
    from tasks.model.inference.export import trace

    def ops(model: Any) -> list[str]:
        return [node.op_type for node in model.graph]

    plain, masked = trace(small_bundle), trace(small_bundle)
    layers = ops(plain).count("Softmax")
    assert fuse_attention(plain) == layers == ops(plain).count(
        "MultiHeadAttention"
    ) and "Softmax" not in ops(plain)
    softmax = next(node for node in masked.graph if node.op_type == "Softmax")
    added = ir.node("Add", [softmax.inputs[0], softmax.inputs[0]])
    masked.graph.insert_before(softmax, [added])
    softmax.replace_input_with(0, added.outputs[0])
    assert fuse_attention(masked) == layers - 1 and ops(masked).count("Softmax") == 1


def test_products_of_one_text_keep_its_shape(small_bundle: Path, tmp_path: Path) -> None:
    import onnx_ir as ir

    graph = ir.load(export_graphs(small_bundle, tmp_path, kinds=["onnx-int8"])["onnx-int8"]).graph
    integers = [node for node in graph if node.op_type == "MatMulIntegerToFloat"]
    layers = sum(node.op_type == "MultiHeadAttention" for node in graph)
    assert len(integers) >= 6 * layers and "Slice" not in {
        n.inputs[0].producer().op_type for n in integers
    }
    assert all(n.inputs[0].producer().op_type == "QuantizeLinear" for n in integers)
    assert sum(node.op_type == "Reshape" for node in graph) <= len(integers), (
        "one for the scales of each input"
    )


def measured(**rates: tuple[float, float]) -> dict[str, BackendMeasure]:
    return {
        name.replace("_", "-"): BackendMeasure(
            texts_per_second=r, agreement=a, largest_difference=0.0
        )
        for name, (r, a) in rates.items()
    }


class TestPick:
    def test_the_fastest_that_agrees(self) -> None:
        m = measured(torch=(10, 1.0), onnx=(20, 1.0), onnx_int8=(50, 0.99))
        name, why = pick_backend(m, settings=Predict())
        assert name == "onnx" and "onnx-int8 agrees on 99.00% only" in why
        assert pick_backend(m, settings=Predict(agreement=0.99))[0] == "onnx-int8"

    def test_torch_where_nothing_else_is_faster(self) -> None:
        assert (
            pick_backend(measured(torch=(10, 1.0), onnx=(9, 1.0)), settings=Predict())[0] == "torch"
        )

    def test_what_is_asked_for_is_taken(self) -> None:
        m = measured(torch=(10, 1.0), onnx_int8=(5, 0.5))
        assert pick_backend(m, settings=Predict(backend="onnx-int8"))[0] == "onnx-int8"


class TestChoose:
    @pytest.mark.parametrize("backend", ["torch", "onnx-int8"])
    def test_the_bundle_holds_the_chosen_graph_and_its_measurements(
        self,
        backend: Any,
        small_bundle: Path,
        tmp_path: Path,
    ) -> None:
        found = choose_backend(
            small_bundle,
            tmp_path / "out",
            settings=Predict(backend=backend, threads=1),
            texts=TEXTS,
        )
        about = check_bundle(tmp_path / "out")
        assert (
            Inference.model_validate_json(json.dumps(about["inference"])) == found
            and about["max_length"] == 32
        )
        assert set(found.measured) == {"torch", backend}
        graphs_there = {p.name for p in (tmp_path / "out").glob("*.onnx*")}
        assert graphs_there == ({"model-int8.onnx"} if backend == "onnx-int8" else set())
        loaded = Classifier.load(tmp_path / "out")
        assert loaded.backend.name == backend
        agreeing = compare_answers(
            loaded.probabilities(TEXTS), Classifier.load(small_bundle).probabilities(TEXTS)
        )
        assert agreeing["agreement"] == found.measured[backend].agreement

    def test_a_bundle_that_was_exported_is_measured_against_its_weights(
        self, small_bundle: Path, tmp_path: Path
    ) -> None:
        first, again = tmp_path / "first", tmp_path / "again"
        choose_backend(small_bundle, first, settings=Predict(backend="onnx-int8"), texts=TEXTS)
        found = choose_backend(first, again, settings=Predict(backend="onnx"), texts=TEXTS)
        plain = Classifier.load(small_bundle).probabilities(TEXTS)
        measured = compare_answers(Classifier.load(again).probabilities(TEXTS), plain)
        assert found.measured["onnx"].model_dump() == found.measured["onnx"].model_dump() | measured
        assert measured["largest_difference"] < 1e-4
        assert {p.name for p in again.glob("*.onnx*")} == {"model.onnx"}

    def test_a_model_that_cannot_be_exported_answers_through_torch_or_says_why(
        self,
        small_bundle: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("tasks.model.inference.export.missing_packages", lambda: ["onnxscript"])
        found = choose_backend(small_bundle, tmp_path / "auto", settings=Predict(), texts=TEXTS)
        assert found.backend == "torch" and "onnxscript not installed" in found.why
        with pytest.raises(
            UserError,
            match=r"predict\.backend is onnx: onnxscript not installed: pip install onnxscript",
        ):
            choose_backend(
                small_bundle, tmp_path / "onnx", settings=Predict(backend="onnx"), texts=TEXTS
            )

    def test_no_dev_text_is_the_users_mistake(self, small_bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"data\.dev"):
            choose_backend(
                small_bundle, tmp_path / "out", settings=Predict(backend="torch"), texts=[]
            )


def test_an_unknown_architecture_is_one_sentence(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(bundle: Path) -> None:
        raise RuntimeError("no such\nop")

    monkeypatch.setattr("tasks.model.inference.export.trace", fails)
    with pytest.raises(CannotExport, match=r"transformers\.exporters: RuntimeError: no such op"):
        export_graphs(small_bundle, tmp_path, kinds=["onnx"])


def test_a_kill_in_the_export_costs_only_the_export(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is killed half way leaves the trained bundle whole, and no bundle under the export's key."""
    from tasks.project.reader import load_project
    from tests.kit import toy

    config = toy.project(tmp_path / "p", endpoint="http://127.0.0.1:9/v1", encoder=small_bundle)
    project = load_project(config)

    trained = BundleRef(small_bundle, atomic.read_json(small_bundle / atomic.MANIFEST)["digest"])
    splits = splits_of(tmp_path, dev=[Record.create(t, "fruit", "dev") for t in TEXTS])
    workspace = Workspace(tmp_path)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(choosing, "measure_backends", killed)
        with pytest.raises(KeyboardInterrupt):
            export_bundle(project, trained=trained, splits=splits, workspace=workspace)
    assert not list((workspace.stages / "export").glob("[!.]*"))
    check_bundle(trained.directory, digest=trained.digest)
    done, again = (
        export_bundle(project, trained=trained, splits=splits, workspace=workspace)
        for _ in range(2)
    )
    check_bundle(done.bundle_directory, digest=done.bundle)
    assert (
        not done.published.found
        and again.published.found
        and again.model_dump() == done.model_dump()
    )
