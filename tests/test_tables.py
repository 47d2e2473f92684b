"""The published tables: every row is met within one percent, or says why not."""

from __future__ import annotations

import pytest

from dita.tables import TABLES, TOLERANCE, as_json, recompute


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_met_within_one_percent_or_says_why_not(name: str) -> None:
    for one in recompute(TABLES[name]):
        assert abs(one.difference) <= TOLERANCE or one.row.reason, one
        assert len(one.row.quality) == len(TABLES[name].quality)


def test_rows_that_contradict_themselves_are_marked() -> None:
    marked = {one.row.label for one in recompute(TABLES["flux"]) if one.marks}
    assert marked == {"40 % steps"}
    successors = {one.row.label for one in recompute(TABLES["flux-successors"]) if one.marks}
    assert successors == {"FORA N=3", "FORA N=5", "TaylorSeer N=3 O=2", "TaylorSeer N=4 O=2"}
    assert not [one for one in recompute(TABLES["pixart"]) if one.marks]


def test_a_wrong_number_would_be_noticed() -> None:
    import dataclasses

    table = TABLES["pixart"]
    wrong = dataclasses.replace(table.rows[3], tflops=5.0)
    (_, one) = recompute(dataclasses.replace(table, rows=(table.rows[0], wrong)))
    assert one.marks == ("its definition takes 3.9871 TFLOPs, not 5", "the printed FLOPs make 2.24, not 2.79")


def test_json_has_published_and_recomputed_numbers() -> None:
    (table,) = as_json([TABLES["opensora"]])
    row = table["rows"][1]
    assert row["tflops"] == 3166.47 and row["tflops_here"] == pytest.approx(3166.47, rel=0.01)
    assert row["quality"] == {"VBench %": 78.21} and row["method"]["method"] == "deltadit"
