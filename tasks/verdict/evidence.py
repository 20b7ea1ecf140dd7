"""What a verdict rests on, kept whole: both models' answers, the settings, and the verdict that follows from them.

Anyone who has the directory can come to the verdict again, byte for byte: it is decided from these files alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import atomic, labels
from tasks.atomic import digest_of
from tasks.stage import Stage, stage
from tasks.statistics import bootstrap, metrics, permutation
from tasks.verdict import decide as judge
from tasks.verdict import effect_size, guardrails
from tasks.verdict.decide import Verdict

VERSION = 3
LIBRARIES = ("numpy", "scipy", "scikit-learn")  # whose arithmetic the verdict rests on
VERDICT, SETTINGS, SIDES, SEED = "verdict.json", "settings.json", ("challenger", "opponent"), "seed_"


def judged(
    challenger: Stage, opponent: Stage, *, settings: dict[str, Any], home: Path, seeds: Sequence[Stage] = ()
) -> Stage:
    """The stage `verdict` on two evaluations of the same test rows; its counts are the verdict. `seeds` are evaluations of the
    models that the challenger's recipe gives with each of several seeds.

    `settings` are the keyword arguments of tasks.verdict.decide.decide, but for `groups`, `seeds` and `slices`: the answers tell each row's
    group and its slices, and `slices` here names those that are judged. What each evaluation read, its model and the sealed test
    rows, by their digests, is written beside them, so that the evidence is of these alone.
    """
    sides = dict(zip(SIDES, (challenger, opponent), strict=True))
    sides |= {f"{SEED}{number:03}": stage for number, stage in enumerate(seeds, 1)}
    read = {name: atomic.read_json(stage.directory / atomic.MANIFEST)["inputs"] for name, stage in sides.items()}
    about = {"decide": settings, "code": code(), "read": read}

    def build(out: Path, work: Path) -> dict[str, Any]:
        for name, scored in sides.items():
            shutil.copyfile(scored.directory / "predictions.jsonl", out / f"{name}.jsonl")
        atomic.write_json(out / SETTINGS, about)
        verdict = decide(out)
        (out / VERDICT).write_bytes(_bytes(verdict))
        return verdict.to_json()

    inputs = {name: stage.digest for name, stage in sides.items()}
    return stage(home, "verdict", version=VERSION, params=about, inputs=inputs, build=build)


def rows_digest(scored: Stage) -> str:
    """The digest of the test rows that were answered, whatever their order, place and other columns: their ids and labels."""
    return digest_of(sorted([r["id"], r["label"]] for r in atomic.read_lines(scored.directory / "predictions.jsonl")))


def decide(directory: Path) -> Verdict:
    """The verdict that follows from the evidence in `directory`."""
    mine, theirs = (atomic.read_lines(directory / f"{name}.jsonl") for name in SIDES)
    of_seeds = [atomic.read_lines(path) for path in sorted(directory.glob(f"{SEED}*.jsonl"))]
    asked = [(a["id"], a["label"]) for a in mine]
    if any([(a["id"], a["label"]) for a in said] != asked for said in (theirs, *of_seeds)):
        return judge.unsure("the models did not answer the same rows", "the opponent", len(mine))
    settings: dict[str, Any] = atomic.read_json(directory / SETTINGS)["decide"]
    for name, rows in zip(SIDES, (mine, theirs), strict=True):
        if odd := sum("scores" in r and r["scores"] is None for r in rows):
            said = f"{odd} of {len(rows)} answers of the {name} have probabilities that are no numbers"
            return judge.unsure(said, settings["opponent_name"], len(rows))
    slices = {name: [i for i, r in enumerate(mine) if name in r["slices"]] for name in settings.get("slices", [])}
    true, a, b = [r["label"] for r in mine], [r["predicted"] for r in mine], [r["predicted"] for r in theirs]
    told = {"slices": slices, "groups": [r.get("group") for r in mine]}
    seeds = [[r["predicted"] for r in said] for said in of_seeds]
    return judge.decide(true, a, b, **settings | told, seeds=seeds)


def verify(directory: Path, *, digest: str | None = None) -> dict[str, Any]:
    """Whether the evidence is as it was sealed, and leads to the recorded verdict again, byte for byte.

    The result has `same`, both verdicts where they differ, `code`: whether this code is the one that judged, and `read`: what
    each side's evaluation read, by digest; None of evidence before version 3, which does not name it. Raises CorruptDirectory when
    a file differs from the manifest, or the directory from `digest`.
    """
    manifest = atomic.verify(directory)
    if digest is not None and manifest["digest"] != digest:
        raise atomic.CorruptDirectory(f"{directory} is not the evidence that was recorded: {manifest['digest'][:12]}")
    there, again = (directory / VERDICT).read_bytes(), decide(directory)
    recorded = json.loads(there)
    settings = atomic.read_json(directory / SETTINGS)
    then, now = settings["code"], code()
    other = [f"{name} {then[name]}" for name in LIBRARIES if name in then and then[name] != now[name]]
    if any(then.get(key) != now[key] for key in ("reseed", "judge")):
        other.insert(0, f"{then['reseed']}, {then['judge'][:12]}")
    found = {
        "same": there == _bytes(again),
        "verdict": recorded["decision"],
        "reasons": recorded["reasons"],
        "rows": recorded["rows"],
        "evidence": manifest["digest"],
        "code": f"other: judged by {', '.join(other)}" if other else "the same",
        "read": settings.get("read"),
    }
    return found if found["same"] else found | {"recorded": recorded, "again": again.to_json()}


def code() -> dict[str, str]:
    """What decides: the versions of Reseed and of what it counts with, and the digest of the modules whose arithmetic it is."""
    import importlib.metadata

    versions = {}
    for name in ("reseed", *LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    of_judging = (judge, effect_size, guardrails, bootstrap, metrics, permutation, labels)
    places = [__file__, *(str(m.__file__) for m in of_judging)]
    said = b"".join(Path(place).read_bytes() for place in places)
    return {**versions, "judge": hashlib.sha256(said).hexdigest()}


def _bytes(verdict: Verdict) -> bytes:
    return json.dumps(verdict.to_json(), ensure_ascii=False, sort_keys=True, indent=1).encode()
