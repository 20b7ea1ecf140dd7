"""Ask several models the same questions: which model answered is the label.

The models' answers are the project's real text, so nothing is synthesised. Two things would give
the label away without being the model's own writing, and are removed: markup of a chat template,
and length. Every answer is cut to the same number of words, and a question with one shorter answer
is left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks import atomic
from tasks.dataset.formats import FORMATS
from tasks.dataset.readers import Columns, read_rows
from tasks.errors import TransientError, UserError
from tasks.figures import Figures
from tasks.llm.budget import Ledger, Spent
from tasks.llm.generators import ResolvedGenerator, resolve_generators
from tasks.llm.request import Request, RowUsage, Usage
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.references import digest_of_path, resolve
from tasks.stage import Metrics, StageResult, run_stage
from tasks.synthesise.ask import ask_generator
from tasks.text.tokens import fold, replace_surrogates
from tasks.workspace import Workspace

VERSION = 2
POOL = "pool.jsonl"

_CHAT_MARKUP = re.compile(
    r"<\|im_start\|>\s*(?:system|user|assistant)?|<start_of_turn>\s*(?:user|model)?|"
    r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|</?s>|"
    r"<(?:bos|eos|pad|unk|mask|end_of_turn|start_of_image|end_of_image|unused\d+)>"
)
# a model without a chat template continues with another question when its answer is complete
_NEXT_TURN = re.compile(r"^\s*(?:Question|Answer|Q|A|User|Assistant)\s*:", re.MULTILINE)


class AnswerCounts(Figures):
    """What became of the answers.

    `rows` counts the rows by label; `left_out` the questions that were left out, by reason and
    model. The words of an answer are its 10th, 50th and 90th percentile.
    """

    questions: int
    rows: dict[str, int]
    left_out: dict[str, dict[str, int]]
    words_before: dict[str, list[int]]
    words_after: dict[str, list[int]]


class AnswersResult(Usage, AnswerCounts, StageResult):
    """Answers of several models to the same questions."""

    spent: Spent
    generators: dict[str, RowUsage]

    @property
    def pool(self) -> Path:
        """The file of the rows."""
        return self.directory / POOL

    def metrics(self) -> Metrics:
        """The usage, and the questions that were asked and left out."""
        left_out = {
            f"generate.{reason}.{model}": float(n)
            for reason, by_model in self.left_out.items()
            for model, n in by_model.items()
        }
        return super().metrics() | {"generate.questions": float(self.questions)} | left_out


def ask_models(
    project: Project, *, workspace: Workspace, progress: Progress = silent
) -> AnswersResult:
    """Every generator's answers to every question: `pool.jsonl` with text, label and question.

    Raises UserError for questions that cannot be read or where no question is left, and what
    ask_generator raises; answers so far are kept in the cache.
    """
    g = project.generate
    path = _questions_file(project, workspace)
    questions = _read_project_questions(project, path)
    models = resolve_generators(project, workspace=workspace)

    def build(out: Path, scratch: Path) -> AnswersResult:
        ledger = Ledger(scratch / "spending.jsonl", g.budget)
        answers: dict[str, dict[str, str]] = {}
        usage: dict[str, RowUsage] = {}
        for label in project.label_names:
            requests = _question_requests(project, label, questions)
            answers[label], usage[label] = _ask(
                models[label], requests, ledger=ledger, workspace=workspace, progress=progress
            )
        rows, counts = rows_of_equal_length(answers, questions, words=g.answer_words)
        if not rows:
            raise UserError(
                f"none of the {len(questions)} questions of {path} has an answer of "
                f"{g.answer_words} words by every model: {counts.left_out} by reason; lower "
                f"generate.answer_words, or raise max_tokens"
            )
        atomic.write_lines(out / POOL, rows)
        return AnswersResult.total(
            usage.values(), spent=ledger.spent, generators=usage, **dict(counts)
        )

    return run_stage(
        AnswersResult,
        "answers",
        workspace=workspace,
        version=VERSION,
        params={
            "models": {name: m.sampling() for name, m in models.items()},
            "answer_words": g.answer_words,
            "seed": g.seed,
            "labels": project.label_names,
        },
        inputs={"questions": digest_of_path(path)},
        build=build,
    )


def _ask(
    model: ResolvedGenerator,
    requests: list[Request],
    *,
    ledger: Ledger,
    workspace: Workspace,
    progress: Progress,
) -> tuple[dict[str, str], RowUsage]:
    """The model's answers by question, and its usage. Raises where some are left open."""
    replies, outcome = ask_generator(
        model, requests, ledger=ledger, workspace=workspace, progress=progress
    )
    if outcome.over_budget:
        raise UserError(str(outcome.stopped))
    if outcome.deferred:
        raise TransientError(outcome.deferred[model.name])
    answers = {r.request.tag["question"]: replace_surrogates(r.text or "") for r in replies}
    rows = sum(bool(r.text) for r in replies)
    return answers, RowUsage.of(requests, replies, outcome, rows=rows)


def plan_questions(project: Project, *, workspace: Workspace) -> dict[str, list[Request]]:
    """What each model would be asked. Raises UserError for questions that cannot be read."""
    questions = _read_project_questions(project, _questions_file(project, workspace))
    return {label: _question_requests(project, label, questions) for label in project.label_names}


def _questions_file(project: Project, workspace: Workspace) -> Path:
    assert project.generate.questions is not None, "the project file was checked"
    return resolve(project.generate.questions, config_dir=project.config_dir, cache=workspace.cache)


def _read_project_questions(project: Project, path: Path) -> list[str]:
    """The questions; their column and encoding are those of `data`, as there is no other data."""
    return read_questions(path, column=project.data.text_column, encoding=project.data.encoding)


def read_questions(path: Path, *, column: str = "text", encoding: str = "utf-8") -> list[str]:
    """The distinct questions in the file's order. Raises UserError where there is none."""
    if path.suffix.lower() in FORMATS:
        rows = read_rows(path, Columns(column, None), encoding=encoding)
        lines = [row.text for row in rows if row.fault is None]
    else:
        try:
            lines = path.read_text(encoding=encoding).splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(
                f"{path} cannot be read as questions ({e}): give a text file with one question per line"
            ) from None
    questions: dict[str, str] = {}
    for line in filter(str.strip, lines):
        questions.setdefault(fold(line), " ".join(line.split()))
    if not questions:
        raise UserError(f"{path} has no questions: write one per line")
    return list(questions.values())


def _question_requests(project: Project, label: str, questions: list[str]) -> list[Request]:
    """One request per question to the model that is named as the label."""
    _, endpoint = project.generate.endpoints()[label]
    return [
        Request(
            (("user", question),),
            endpoint.temperature,
            endpoint.top_p,
            endpoint.max_tokens,
            _seed_of(project.generate.seed, question),
            tag={"label": label, "question": question},
        )
        for question in questions
    ]


def _seed_of(seed: int, question: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{question}".encode()).digest()[:4]) % 2**31


def with_answers_as_pool(project: Project, answers: AnswersResult) -> Project:
    """The project with the answers as its pool, all answers to a question in one split.

    Only `split_dataset` uses it.
    """
    pool = {
        "pool": str(answers.pool),
        "text_column": "text",
        "label_column": "label",
        "encoding": "utf-8",
        "group_column": "question",
    }
    return project.model_copy(update={"data": project.data.model_copy(update=pool)})


def strip_chat_markup(answer: str) -> str:
    """The answer without a chat template's markup, up to where the model asks another question."""
    text = _CHAT_MARKUP.sub("", answer).strip()
    following = _NEXT_TURN.search(text)
    return text[: following.start()].strip() if following else text


def truncate_words(text: str, n: int) -> str | None:
    """The first `n` words with the white space between them; None with `n` words or fewer.

    A text of exactly `n` words would end with its own last word, unlike the others.
    """
    matches = list(re.finditer(r"\S+", text))
    return text[: matches[n - 1].end()] if len(matches) > n else None


def rows_of_equal_length(
    answers: Mapping[str, Mapping[str, str]], questions: list[str], *, words: int
) -> tuple[list[dict[str, str]], AnswerCounts]:
    """Rows (text, label, question) of equal length for the questions that every model answered."""
    rows: list[dict[str, str]] = []
    lengths: dict[str, list[int]] = {label: [] for label in answers}
    shorter, unanswered = dict.fromkeys(answers, 0), dict.fromkeys(answers, 0)
    for question in questions:
        cut: dict[str, str] = {}
        for label, by_question in answers.items():
            text = strip_chat_markup(by_question.get(question, ""))
            lengths[label].append(len(text.split()))
            if truncated := truncate_words(text, words):
                cut[label] = truncated
            else:
                (shorter if text else unanswered)[label] += 1
        if len(cut) == len(answers):
            rows += [{"text": t, "label": label, "question": question} for label, t in cut.items()]
    after = {k: [len(r["text"].split()) for r in rows if r["label"] == k] for k in answers}
    return rows, AnswerCounts(
        questions=len(questions),
        rows={label: len(after[label]) for label in sorted(answers)},
        left_out={"shorter": shorter, "unanswered": unanswered},
        words_before={label: percentiles(n) for label, n in lengths.items()},
        words_after={label: percentiles(n) for label, n in after.items()},
    )


def percentiles(values: Iterable[int]) -> list[int]:
    """The 10th, 50th and 90th percentile, nearest rank; empty where there are no values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [ordered[min(int(len(ordered) * q), last)] for q in (0.1, 0.5, 0.9)] if ordered else []
