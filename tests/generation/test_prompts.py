import pytest

from dita.generation.prompts import Prompt, from_texts, parse_seeds, read


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_text_files_have_a_prompt_a_line_named_by_its_number(tmp_path):
    path = write(tmp_path, "p.txt", "\ufeffa cat\n\nein Hünd\n")
    assert read(path) == [Prompt("00000", "a cat"), Prompt("00002", "ein Hünd")]


def test_csv_files_have_a_header(tmp_path):
    path = write(tmp_path, "p.csv", 'id,prompt\nx,"a, b"\ny,"two\nlines"\n')
    assert read(path) == [Prompt("x", "a, b"), Prompt("y", "two\nlines")]
    assert read(write(tmp_path, "q.csv", "prompt\na\n")) == [Prompt("00000", "a")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "Prompt, ID\n a cat , x\n"),
        ("p.csv", '\ufeff"PROMPT";"id"\n"a cat";"x"\n'),
        ("p.tsv", "Id\tPrompt\nx\ta cat\n"),
        ("p.jsonl", '\ufeff{"Prompt": "a cat", " ID ": "x"}\n'),
    ],
)
def test_names_of_columns_may_have_blanks_capitals_and_quotes(tmp_path, name, text):
    assert read(write(tmp_path, name, text)) == [Prompt("x", "a cat")]


def test_two_keys_of_one_meaning_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: several columns are called 'prompt'"):
        read(write(tmp_path, "p.jsonl", '{"Prompt": "a", "PROMPT": "b"}\n'))


def test_json_lines_are_objects_or_texts(tmp_path):
    path = write(tmp_path, "p.jsonl", '{"id": 7, "prompt": "a"}\n\n"b"\n{"prompt": "c", "more": [1]}\n')
    assert read(path) == [Prompt("7", "a"), Prompt("00002", "b"), Prompt("00003", "c")]


def test_parquet_files_have_a_column_prompt(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "id": ["x", "y"]}), tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet") == [Prompt("x", "a"), Prompt("y", "b")]
    parquet.write_table(pyarrow.table({" Prompt": ["a"], "ID": ["x"], "more": [1]}), tmp_path / "s.parquet")
    assert read(tmp_path / "s.parquet") == [Prompt("x", "a")]
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "q.parquet")
    with pytest.raises(ValueError, match="no column 'prompt', but text"):
        read(tmp_path / "q.parquet")
    with pytest.raises(ValueError, match="is not Parquet"):
        read(write(tmp_path, "r.parquet", "no"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2: an entry needs a text 'prompt'"),
        ("p.jsonl", '{"prompt": " "}\n', "line 1: the prompt is empty"),
        ("p.jsonl", '{"prompt": "a", "id": []}\n', "line 1: an id must be"),
        (
            "p.jsonl",
            '{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "b"}\n',
            "line 2: id '1' was there before, in line 1",
        ),
        ("p.csv", "id,prompt\nx,a\ny\n", "line 3: the row has fewer cells"),
        ("p.csv", "id,prompt\nx,a,b\n", "line 2: the row has more cells"),
        ("p.csv", "text\na\n", "line 1: a CSV file needs a header with a column 'prompt', got text"),
        ("p.csv", 'prompt\n"a\n', "not CSV: unexpected end"),
        ("p.csv", "", "got nothing"),
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.docx", "a", "unknown extension; known: .txt, .csv, .jsonl, .parquet"),
    ],
)
def test_bad_files_are_refused_with_the_number_of_the_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, name, text))


def test_missing_files_and_other_encodings_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*gone\.txt"):
        read(tmp_path / "gone.txt")
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="not UTF-8"):
        read(tmp_path / "p.txt")


def test_texts_are_numbered_and_not_empty():
    assert [prompt.id for prompt in from_texts(["a", "b"])] == ["00000", "00001"]
    with pytest.raises(ValueError, match="number 2: the prompt is empty"):
        from_texts(["a", ""])


def test_seeds_are_ranges_with_both_ends():
    assert parse_seeds("0..3") == (0, 1, 2, 3)
    assert parse_seeds("5") == (5,)
    assert parse_seeds("0,2,7..9") == (0, 2, 7, 8, 9)


@pytest.mark.parametrize(
    ("text", "message"), [("3..1", "end before"), ("0,0", "more than once"), ("-1", "must be as"), ("", "must be as")]
)
def test_other_seeds_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_seeds(text)
