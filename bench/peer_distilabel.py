"""Rows from distilabel's GenerateTextClassificationData, for bench/generate.py; run by a Python that holds distilabel.

    /path/to/venv/bin/python bench/peer_distilabel.py URL ROWS TASK MAX_TOKENS

Prints one JSON object: the rows (`input_text`, `label`) and the seconds that they took, without imports and loading.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    url, rows, task, max_tokens = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    from distilabel.models import OpenAILLM
    from distilabel.steps.tasks import GenerateTextClassificationData

    sampling = {"max_new_tokens": max_tokens, "temperature": 1.0, "top_p": 0.95}
    llm = OpenAILLM(model="m", base_url=url, api_key="none", generation_kwargs=sampling)
    step = GenerateTextClassificationData(
        llm=llm,
        language="English",
        difficulty="high school",
        clarity="clear",
        input_batch_size=rows,
    )
    step.load()
    began = time.perf_counter()
    found = [row for batch in step.process([{"task": task}] * rows) for row in batch]
    seconds = time.perf_counter() - began
    kept = [{"input_text": row.get("input_text"), "label": row.get("label")} for row in found]
    print(json.dumps({"rows": kept, "seconds": seconds}))


if __name__ == "__main__":
    main()
