"""Every method has one name, one look and one place, and the paper's numbers are of methods that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from experiments.report.columns import COST, PAPERS
from experiments.report.methods import CHOSEN, METHODS, ORACLE, OURS, RIVALS, method_named, method_order
from experiments.report.paper import read_paper

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "experiments").glob("*/presets/*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_method_of_a_preset_has_a_record(preset: Path) -> None:
    content = yaml.safe_load(preset.read_text(encoding="utf-8"))
    names = set(content.get("methods", {}))
    assert names and names <= {method.name for method in METHODS}


def test_no_two_methods_have_the_same_name_or_look() -> None:
    drawn = [method for method in METHODS if not method.ablation]
    for values in ([m.name for m in METHODS], [m.label for m in METHODS], [m.short for m in METHODS]):
        assert len(set(values)) == len(values)
    assert len({m.colour for m in drawn}) == len({m.marker for m in drawn}) == len(drawn)


def test_an_unknown_method_is_an_ablation_whose_looks_follow_from_its_name() -> None:
    unknown = method_named("joint_k4")
    assert unknown == method_named("joint_k4") and unknown.ablation
    assert (unknown.label, unknown.short) == ("joint_k4", "joint k4")
    assert unknown.colour not in {method.colour for method in METHODS if not method.ablation}
    assert method_named("joint_k4_clean").knows_truth and method_named(ORACLE).knows_truth
    assert not method_named(OURS).knows_truth


def test_order_of_methods() -> None:
    names = ["exact", "pcpca", "joint_wide", "gibbs", "joint_k4", "clvm_vae", "chosen", "mixture", "joint", "gibbs"]
    assert method_order(names) == [OURS, CHOSEN, "mixture", "gibbs", "pcpca", "clvm_vae", "joint_k4", "joint_wide", ORACLE]
    assert RIVALS[0] == "mixture" and not {OURS, CHOSEN, ORACLE, "joint_wide"} & set(RIVALS)


def test_the_papers_numbers_are_of_columns_that_a_table_has() -> None:
    paper = read_paper()
    cells = [c for e in paper["tables"].values() for p in e.values() for m in p.values() for c in m.values()]
    assert {metric for cell in cells for metric in cell} <= {column.metric for column in PAPERS}
    costs = [cell for methods in paper["costs"].values() for cell in methods.values()]
    assert {metric for cell in costs for metric in cell} <= {column.metric for column in COST}


def test_labels_claim_no_compute_but_what_was_counted() -> None:
    """Eight times as much is that of the row of Gibbs. What a row costs beside ours is told by its count alone."""
    assert [method.name for method in METHODS if "compute" in method.label + method.short] == ["gibbs_8x"]
    pairs = 0
    for path in sorted((ROOT / "results").glob("*/*/seed-*/metrics.jsonl")):
        counted = {}
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["metric"] == "network_evaluations" and row["lap"] is None:
                counted[row["problem"], row["method"]] = row["value"]
        for (problem, method), value in counted.items():
            if method == "gibbs_8x":
                assert value == 8 * counted[problem, "gibbs"]
                pairs += 1
    assert pairs
