"""Inputs of the studies in the embedded model's language, one JSON Lines file a table."""

import json
from pathlib import Path
from random import Random

from pipeline.embedded import agreement_prompts, prompt_tables
from pipeline.embedded.behaviours import lists, refusal, text


def write_study_data(folder: Path, seed: int) -> None:
    """Write each table as FOLDER/NAME.jsonl."""
    tables = {
        "instructions": refusal.instructions(Random(seed)),
        "list_topics": lists.topics(),
        "number_agreement": agreement_prompts.number_agreement(Random(seed)),
        "plain_text": text.held_out(Random(seed)),
        "quoted_questions": prompt_tables.quoted_questions(),
        "two_hops": prompt_tables.two_hops(Random(seed)),
    }
    for name, rows in tables.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
