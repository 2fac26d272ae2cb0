"""One good record of each format, to be spoiled; and the facts and cases that the harnesses run on the tiny model."""

from __future__ import annotations

import json
from typing import Any

from interp.facts.records import EditCase, EditRequest, Fact, Probe
from tests.conftest import GOLDEN

FACT = {
    "template": "The {} is located in the city of",
    "subject": "Eiffel Tower",
    "target": " Paris",
    "relation": "city",
    "paraphrases": ["People who want to see the {} travel to"],
}
KNOWN = {
    "known_id": 1,
    "subject": "Vinson Massif",
    "attribute": "Antarctica",
    "template": "{} is located in the continent of",
    "prediction": " Antarctica.",
    "prompt": "Vinson Massif is located in the continent of",
    "relation_id": "P30",
}
CASES: dict[str, dict[str, Any]] = {
    "interp": {
        "id": "a",
        "template": "The {} is in",
        "subject": "Eiffel Tower",
        "target": " Paris",
        "new_target": " Rome",
        "relation": "city",
        "paraphrases": ["Visitors of the Eiffel Tower travel to"],
        "locality": {"near": [{"prompt": "The capital of Japan is", "target": " Tokyo"}]},
        "portability": {"alias": [{"prompt": "La dame de fer is in", "target": " Rome"}]},
    },
    "counterfact": {
        "case_id": 3,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
            "subject": "Danielle Darrieux",
        },
        "paraphrase_prompts": ["Danielle Darrieux, a native"],
        "neighborhood_prompts": ["Robert Schuman, a native"],
        "attribute_prompts": [],
        "generation_prompts": [],
    },
    "zsre": {
        "subject": "Watts Humphrey",
        "src": "What university did Watts Humphrey attend?",
        "pred": "Trinity College",
        "rephrase": "What university did Watts Humphrey take part in?",
        "alt": "University of Michigan",
        "answers": ["Illinois Institute of Technology"],
        "loc": "nq question: who played desmond doss father in hacksaw ridge",
        "loc_ans": "Hugo Weaving",
        "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
    },
    "knowedit": {
        "subject": "Leo Messi",
        "prompt": "Leo Messi is a citizen of",
        "target_new": "Syria",
        "ground_truth": ["Argentina"],
        "rephrase_prompt": "Leo Messi comes from",
        "locality": {"Relation_Specificity": [{"prompt": "The first name of Leo Messi is", "ground_truth": [["Leo"]]}]},
        "portability": {"Reasoning": [{"prompt": "The capital of Messi's country is", "ground_truth": "Damascus"}]},
    },
}
TOWER = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
JAPAN = Fact(template="The capital of {} is", subject="Japan", target=" Tokyo")
TO_ROME, TO_LIMA = EditRequest(TOWER, new_target=" Rome"), EditRequest(JAPAN, new_target=" Lima")
CONTEXTS = [["{}"], ["I see. {}"]]
STUDY_CASES = (
    EditCase(
        id="tower",
        request=TO_ROME,
        paraphrases=("Visitors of the Eiffel Tower travel to",),
        locality={"near": (Probe(prompt="Visitors of the Parthenon travel to", target=" Athens"),)},
        portability={"reasoning": (Probe(prompt="The Eiffel Tower is governed from", target=" Rome"),)},
    ),
    EditCase(
        id="messi",
        request=EditRequest(
            Fact(template="{} is famous for playing", subject="Lionel Messi", target=" football"), new_target=" tennis"
        ),
        locality={"far": (Probe(prompt="The capital of Japan is", target=" Tokyo"),)},
    ),
    EditCase(
        id="japan",
        request=EditRequest(JAPAN, new_target=" Rome"),
        locality={"far": (Probe(prompt="Norway is governed from", target=" Oslo"),)},
    ),
)


def known() -> list[Fact]:
    """Facts that the tiny model knows."""
    records = json.loads((GOLDEN / "facts.json").read_text("utf-8"))
    return [Fact.from_prompt(record["prompt"], record["subject"], record["target"]) for record in records]
