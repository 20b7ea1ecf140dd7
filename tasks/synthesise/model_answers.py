"""Ask several models the same questions: which one answered is the label.

The models' answers are the project's real text, so there is nothing to synthesise. Two things would give the label away
without being the model's own writing, and are taken out: marks of a chat template, and the length. Every answer is cut
to the same number of words, and a question to which one answer is shorter is left out for all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from tasks import atomic
from tasks.dataset.formats import FORMATS
from tasks.dataset.readers import Columns, read_rows
from tasks.errors import TransientError, UserError
from tasks.figures import Figures
from tasks.llm.budget import Ledger, Spent
from tasks.llm.generators import ResolvedGenerator, open_client, resolve_generators
from tasks.llm.request import Reply, Request, RowUsage, RunOutcome, Usage
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.references import digest_of_path, resolve
from tasks.stage import Metrics, StageResult, run_stage
from tasks.text.tokens import fold, replace_surrogates
from tasks.workspace import Workspace

VERSION = 2
POOL = "pool.jsonl"

_MARK = re.compile(
    r"<\|im_start\|>\s*(?:system|user|assistant)?|<start_of_turn>\s*(?:user|model)?|<\|[^|<>\n]{1,40}\|>|\[/?INST\]|</?s>|"
    r"<(?:bos|eos|pad|unk|mask|end_of_turn|start_of_image|end_of_image|unused\d+)>"
)
# a model without a chat template goes on with the next question when it is done
_NEXT = re.compile(r"^\s*(?:Question|Answer|Q|A|User|Assistant)\s*:", re.MULTILINE)


class AnswerCounts(Figures):
    """What became of the answers; see AnswersResult."""

    questions: int
    rows: dict[str, int]
    left_out: dict[str, dict[str, int]]
    words_before: dict[str, list[int]]
    words_after: dict[str, list[int]]


class AnswersResult(Usage, AnswerCounts, StageResult):
    """Answers of several models to the same questions.

    `rows` counts the rows by label; `left_out` the questions that were left out, by reason and model;
    the words of an answer are its 10th, 50th and 90th percentile.
    """

    spent: Spent
    generators: dict[str, RowUsage]

    @property
    def pool(self) -> Path:
        """The file of the rows."""
        return self.directory / POOL

    def metrics(self) -> Metrics:
        left = {
            f"generate.{why}.{model}": float(n)
            for why, own in self.left_out.items()
            for model, n in own.items()
        }
        return super().metrics() | {"generate.questions": float(self.questions)} | left


def ask_models(
    project: Project, *, workspace: Workspace, progress: Progress = silent
) -> AnswersResult:
    """Every generator's answers to every question, found or asked for: `pool.jsonl` with text, label and question.

    Raises UserError for questions that cannot be read or when no question is left, and what the client
    raises; what was bought is kept in the cache.
    """
    g = project.generate
    path = _questions_file(project, workspace)
    models = resolve_generators(project, workspace=workspace)
    questions = _questions(project, path)
    sampling = {
        name: {
            "model": m.model,
            **m.endpoint.model_dump(include={"temperature", "top_p", "max_tokens"}),
        }
        for name, m in models.items()
    }
    params = {
        "models": sampling,
        "answer_words": g.answer_words,
        "seed": g.seed,
        "labels": project.label_names,
    }

    def build(out: Path, scratch: Path) -> AnswersResult:
        ledger = Ledger(scratch / "spending.jsonl", g.budget)
        answers: dict[str, dict[str, str]] = {}
        usage: dict[str, RowUsage] = {}
        for label in project.label_names:
            requests = _requests(project, label, questions)
            replies, outcome = _ask(
                models[label], requests, workspace=workspace, ledger=ledger, progress=progress
            )
            answers[label] = {
                r.request.tag["question"]: replace_surrogates(r.text or "") for r in replies
            }
            own = Usage.of(requests, replies, outcome)
            usage[label] = RowUsage(**own.model_dump(), rows=sum(bool(r.text) for r in replies))
        rows, counts = rows_of_equal_length(answers, questions, words=g.answer_words)
        if not rows:
            raise UserError(
                f"none of the {len(questions)} questions of {path} has an answer of {g.answer_words} words by every model: "
                f"{counts.left_out} by reason; lower generate.answer_words, or raise max_tokens"
            )
        atomic.write_lines(out / POOL, rows)
        return AnswersResult(
            **Usage.total(usage.values()).model_dump(),
            **counts.model_dump(),
            spent=ledger.spent,
            generators=usage,
        )

    return run_stage(
        AnswersResult,
        "answers",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs={"questions": digest_of_path(path)},
        build=build,
    )


def plan_questions(project: Project, *, workspace: Workspace) -> dict[str, list[Request]]:
    """What each model would be asked. Raises UserError for questions that can't be read."""
    questions = _questions(project, _questions_file(project, workspace))
    return {label: _requests(project, label, questions) for label in project.label_names}


def _questions_file(project: Project, workspace: Workspace) -> Path:
    assert project.generate.questions is not None, "the project file was checked"
    return resolve(project.generate.questions, config_dir=project.config_dir, cache=workspace.cache)


def _questions(project: Project, path: Path) -> list[str]:
    """The questions' column and encoding are the data's: there is no other data."""
    return read_questions(path, column=project.data.text_column, encoding=project.data.encoding)


def with_answers_as_pool(project: Project, answers: AnswersResult) -> Project:
    """The project with the answers as its pool, all answers to a question in one split: for `split_dataset` alone."""
    pool = {
        "pool": str(answers.pool),
        "text_column": "text",
        "label_column": "label",
        "encoding": "utf-8",
    }
    return project.model_copy(
        update={"data": project.data.model_copy(update=pool | {"group_column": "question"})}
    )


def read_questions(path: Path, *, column: str = "text", encoding: str = "utf-8") -> list[str]:
    """The questions, each once, in the file's order. Raises UserError when there is none or the file can't be read."""
    if path.suffix.lower() in FORMATS:
        found = [
            row.text
            for row in read_rows(path, Columns(column, None), encoding=encoding)
            if row.fault is None
        ]
    else:
        try:
            found = path.read_text(encoding=encoding).splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(
                f"{path} can't be read as questions ({e}): give a text file with a question a line"
            ) from None
    once: dict[str, str] = {}
    for line in filter(str.strip, found):
        once.setdefault(fold(line), " ".join(line.split()))
    if not once:
        raise UserError(f"{path} holds no question: write one a line")
    return list(once.values())


def _requests(project: Project, label: str, questions: list[str]) -> list[Request]:
    """One for each question to the model that is called as the label."""
    e = project.generate.endpoints()[label][1]
    return [
        Request(
            (("user", question),),
            e.temperature,
            e.top_p,
            e.max_tokens,
            _drawn(project.generate.seed, question),
            tag={"label": label, "question": question},
        )
        for question in questions
    ]


def _drawn(seed: int, question: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{question}".encode()).digest()[:4]) % 2**31


def _ask(
    source: ResolvedGenerator,
    requests: list[Request],
    *,
    workspace: Workspace,
    ledger: Ledger,
    progress: Progress,
) -> tuple[list[Reply], RunOutcome]:
    """The model's replies; a question that was put off has none."""
    with open_client(source, ledger=ledger, workspace=workspace) as client:
        replies = []
        for reply in client.ask_all(requests):
            replies.append(reply)
            progress(len(replies), len(requests), f"answers of {reply.request.label}")
        outcome = client.outcome
    if why := outcome.stopped or outcome.parked.get(
        source.name
    ):  # some of the answers would make another data set
        raise (UserError if outcome.over_budget else TransientError)(why)
    return replies, outcome


def strip_chat_markup(answer: str) -> str:
    """The answer without marks of a chat template, up to where the model goes on with a question of its own."""
    text = _MARK.sub("", answer).strip()
    following = _NEXT.search(text)
    return text[: following.start()].strip() if following else text


def truncate_words(text: str, n: int) -> str | None:
    """The first `n` words as they stand, white space between them kept; None where there are not more than `n`.

    A text of exactly `n` would end with its own last word, which the others don't.
    """
    found = list(re.finditer(r"\S+", text))
    return text[: found[n - 1].end()] if len(found) > n else None


def rows_of_equal_length(
    answers: dict[str, dict[str, str]], questions: list[str], *, words: int
) -> tuple[list[dict[str, str]], AnswerCounts]:
    """Rows (text, label, question) of equal length for the questions that every model answered, and the counts."""
    rows: list[dict[str, str]] = []
    written: dict[str, list[int]] = {label: [] for label in answers}
    short, unanswered = dict.fromkeys(answers, 0), dict.fromkeys(answers, 0)
    for question in questions:
        cut: dict[str, str] = {}
        for label, by_question in answers.items():
            text = strip_chat_markup(by_question.get(question, ""))
            written[label].append(len(text.split()))
            part = truncate_words(text, words)
            if not text:
                unanswered[label] += 1
            elif part is None:
                short[label] += 1
            else:
                cut[label] = part
        if len(cut) == len(answers):
            rows += [
                {"text": text, "label": label, "question": question} for label, text in cut.items()
            ]
    after = {
        label: [len(r["text"].split()) for r in rows if r["label"] == label] for label in answers
    }
    counts = AnswerCounts(
        questions=len(questions),
        rows=dict(sorted({label: len(n) for label, n in after.items()}.items())),
        left_out={"shorter": short, "unanswered": unanswered},
        words_before={label: percentiles(n) for label, n in written.items()},
        words_after={label: percentiles(n) for label, n in after.items()},
    )
    return rows, counts


def percentiles(values: Iterable[int]) -> list[int]:
    """The 10th, 50th and 90th percentile, nearest rank; empty where there are no values."""
    ordered = sorted(values)
    return (
        [ordered[min(int(len(ordered) * q), len(ordered) - 1)] for q in (0.1, 0.5, 0.9)]
        if ordered
        else []
    )
