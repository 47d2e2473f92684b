import pytest

from dita.columns import column, renamed, rows

WANTED = ("prompt", "id", "seed")


@pytest.mark.parametrize(
    "name", ["prompt", "Prompt", "PROMPT", " prompt ", '"Prompt"', "'prompt'", "\ufeffprompt", "\xa0Prompt"]
)
def test_a_column_is_found_whatever_its_spelling(name):
    assert column(["other", name], "prompt") == name


def test_the_exact_name_comes_first_and_two_others_are_ambiguous():
    assert column(["Prompt", "prompt"], "prompt") == "prompt"
    assert column(["prompts", "text"], "prompt") is None
    with pytest.raises(ValueError, match=r"several columns are called 'prompt': 'Prompt', ' prompt'"):
        column(["Prompt", " prompt"], "prompt")
    assert renamed({" ID": 1, "Prompt": "a", "Note": 2}, WANTED) == {"id": 1, "prompt": "a", "Note": 2}


HEADERS = [
    "prompt,id,seed",
    "Prompt,ID,Seed",
    " prompt , id , seed ",
    '"prompt","id","seed"',
    '"Prompt", "Id", "Seed"',
    '"Prompt" , "Id" , "Seed" ',
    "\ufeffPROMPT,ID,SEED",
    '\ufeff"prompt",id,seed',
    "\n\nprompt,id,seed",
]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", HEADERS, ids=repr)
def test_a_table_is_read_whatever_its_header_and_separator(tmp_path, header, separator, end):
    first = header.count("\n") + 2
    text = f'{header}\n"a, b; c",x,1\n\n"two\nlines",y,2'
    text = text.replace(",", separator).replace(f"a{separator} b", "a, b").replace("\n", end)
    (tmp_path / "p.csv").write_bytes(text.encode())
    assert list(rows(tmp_path / "p.csv", WANTED)) == [
        (first, {"prompt": "a, b; c", "id": "x", "seed": "1"}),
        (first + 3, {"prompt": f"two{end}lines", "id": "y", "seed": "2"}),
    ]


def test_other_columns_stay_as_they_are(tmp_path):
    (tmp_path / "p.tsv").write_text("Prompt\tCategory\tNote\na\tb\tc, d\n")
    assert [row for _, row in rows(tmp_path / "p.tsv", WANTED)] == [{"prompt": "a", "Category": "b", "Note": "c, d"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: a CSV file needs a header with a column 'prompt', got nothing"),
        ("\ncaption,id\n", "line 2: .* got caption, id"),
        ("Prompt, PROMPT\n", "line 1: several columns are called 'prompt'"),
        ("prompt,prompt\na,b\n", "line 1: several columns are called 'prompt'"),
        ("prompt;id\na;b;c\n", "line 2: the row has more cells"),
        ("\nprompt,id\na,b\nc\n", "line 4: the row has fewer cells"),
        ('prompt,id\n"a,b\n', "line 2: not CSV"),
        ('"prompt,id\na,b\n', "a CSV file needs a header"),
    ],
)
def test_broken_tables_are_refused_with_the_number_of_the_line(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(rows(tmp_path / "p.csv", WANTED))
