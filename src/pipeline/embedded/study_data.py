"""Inputs of the studies in the embedded model's language, one JSON Lines file a table."""

import json
from pathlib import Path
from random import Random

from pipeline.embedded import (
    agreement_prompts,
    circuit_prompts,
    concept_prompts,
    lens_prompts,
    people_prompts,
    probe_prompts,
    prompt_tables,
    relation_prompts,
    sense_prompts,
    skill_prompts,
    sum_prompts,
    task_prompts,
    vocabulary_prompts,
)
from pipeline.embedded.behaviours import lists, refusal, text


def write_study_data(folder: Path, seed: int) -> None:
    """Write each table as FOLDER/NAME.jsonl."""
    tables = {
        "capitals": lens_prompts.capitals(Random(seed)),
        "chat_skills": skill_prompts.chat_skills(Random(seed)),
        "fact_edits": lens_prompts.fact_edits(Random(seed)),
        "indirect_objects": circuit_prompts.indirect_objects(Random(seed)),
        "instructions": refusal.instructions(Random(seed)),
        "languages": concept_prompts.languages(Random(seed)),
        "list_topics": lists.topics(),
        "mixed_texts": lens_prompts.mixed_texts(Random(seed)),
        "number_agreement": agreement_prompts.number_agreement(Random(seed)),
        "parsed_sentences": probe_prompts.parsed_sentences(Random(seed)),
        "people_facts": people_prompts.people_facts(Random(seed)),
        "plain_text": text.held_out(Random(seed)),
        "quoted_questions": prompt_tables.quoted_questions(),
        "relations": relation_prompts.relations(),
        "senses": sense_prompts.senses(),
        "skills": skill_prompts.skills(Random(seed)),
        "stories": probe_prompts.stories(Random(seed)),
        "sums": sum_prompts.sums(Random(seed)),
        "superstitions": concept_prompts.superstitions(Random(seed)),
        "translations": lens_prompts.translations(Random(seed)),
        "two_hops": prompt_tables.two_hops(Random(seed)),
        "vocabulary": vocabulary_prompts.vocabulary(Random(seed)),
        "word_pairs": task_prompts.word_pairs(Random(seed)),
        "works": concept_prompts.works(Random(seed)),
    }
    for name, rows in tables.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
