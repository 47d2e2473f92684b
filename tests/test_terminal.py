import io
import itertools
import re

import pytest
from rich.console import Console

from dita.methods import METHODS
from dita.terminal import LABEL_WIDTH, Column, FittingTable, folded

LONG = "call:3:1:full=0/3/6/9/12/15/18/23/26"
HEADS = ("steps\nthat ran", "s / image\nmedian", "speed-up\nin s", "TFLOPs\n/image", "cache\nMB", "PSNR\ndB", "SSIM")
RANKS = (1, 0, 0, 2, 2, 0, 0)


def table(labels, more=0):
    made = FittingTable("method", [*map(Column, HEADS, RANKS), *(Column(f"metric {n}", 1) for n in range(more))])
    for label in labels:
        made.add(label, ["9F+19p", "0.400 ±15%", "2.50×", "0.0500", "9.00", "27.0", "0.990", *["0.12345"] * more])
    return made


def printed(made, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(made)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("more", [0, 4, 12])
@pytest.mark.parametrize("labels", [["plain"], ["plain", LONG], ["tome:0.5+toca:4:0.9:attention:schedule=constant"]])
def test_nothing_is_cut_or_left_out_and_no_line_is_too_long(width, more, labels):
    lines = printed(table(labels, more), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    words = text.split()
    for cell in ("9F+19p", "2.50×", "0.0500", "9.00", "27.0", "0.990"):
        assert words.count(cell) == len(labels)
    assert words.count("0.12345") == more * len(labels)
    starts = [number for number, line in enumerate(lines) if line.startswith("method")]
    assert starts
    for first, last in itertools.pairwise([*starts, len(lines)]):
        names = "".join(re.split(r"\s", line)[0] for line in lines[first + 1 : last])
        assert names == "".join(labels)


def test_one_table_where_all_fits_and_the_ranks_tell_what_comes_first():
    assert table(["plain"]).parts(80) == [[0, 1, 2, 3, 4, 5, 6]]
    first, second = table(["plain", LONG], more=2).parts(80)
    assert set(first) > {1, 2, 5, 6} and set(second) <= {3, 4, 7, 8}
    assert sorted([*first, *second]) == list(range(9))


def test_a_column_wider_than_the_terminal_wraps():
    made = FittingTable("", [Column("steps: ms", left=True)])
    made.add("plain", ["4 full 1395.49, " * 10])
    lines = printed(made, 60)
    assert max(map(len, lines)) <= 60 and " ".join(lines).count("1395.49") == 10


@pytest.mark.parametrize("label", [LONG, "tome:0.5+toca:4:0.9", *(cls().label() for cls in METHODS.values())])
def test_labels_fold_at_their_joints(label):
    lines = folded(label, LABEL_WIDTH)
    assert "".join(lines) == label
    assert all(len(line) <= LABEL_WIDTH for line in lines)
    assert all(line[-1] in ":/+" for line in lines[:-1])


def test_brackets_are_no_markup():
    made = FittingTable("row", [Column("[bold]")])
    made.add("ToCa [1]", ["[red]"])
    assert "ToCa [1]" in printed(made, 80)[1] and "[red]" in printed(made, 80)[1]
