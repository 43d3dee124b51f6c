import json
import os
from pathlib import Path

import pytest

from imprint.documents import KINDS, load, sentences, split
from imprint.documents.reading import iso_date, sane_title
from imprint.errors import DocumentError, NothingToTeach

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data on this machine")
    return path


def one(folder, name, data):
    """The document made of one file."""
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    (document,) = load(folder / name).documents
    return document


# --- kinds of text ----------------------------------------------------------------------------


def test_plain_text_is_kept_as_it_is_and_named_after_its_file(tmp_path):
    document = one(tmp_path, "travel_policy-2024.txt", "Book early.\r\nFly cheap.\r\n")
    assert document.text == "Book early.\nFly cheap.\n"
    assert (document.title, document.source) == ("travel policy-2024", "travel_policy-2024.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_the_byte_order_mark_decides_the_encoding(tmp_path, encoding):
    assert one(tmp_path, "a.txt", "Grüße, 世界".encode(encoding)).text == "Grüße, 世界"


def test_an_older_encoding_is_recognised(tmp_path):
    text = "Die Prüfung der Anträge erfolgt jährlich. Größere Änderungen müssen gemeldet werden. " * 5
    assert one(tmp_path, "a.txt", text.encode("cp1252")).text == text


def test_markdown_gives_its_title_and_date(tmp_path):
    document = one(tmp_path, "a.md", "---\ntitle: 'Leave'\ndate: 2024-03-05\n---\n# Other\n\nText.\n")
    assert (document.title, document.valid_from) == ("Leave", "2024-03-05")
    assert document.text == "# Other\n\nText.\n"


def test_a_markdown_title_is_its_first_heading_outside_code(tmp_path):
    assert one(tmp_path, "a.md", "```\n# no\n```\n\n## [The *rules*](x.md) {#r}\n").title == "The rules"


def test_code_is_titled_with_its_path(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("# a comment\nx = 1\n")
    (document,) = load(tmp_path).documents
    assert (document.title, document.text) == ("src/main.py", "# a comment\nx = 1\n")


def test_a_row_of_a_table_says_its_columns(tmp_path):
    text = one(tmp_path, "a.csv", 'Name,Born,Note\nAda,1815,"likes, commas"\nAlan,1912,\n').text
    assert text == "Name: Ada; Born: 1815; Note: likes, commas\n\nName: Alan; Born: 1912"


@pytest.mark.parametrize("name, mark", [("a.csv", ";"), ("a.tsv", "\t"), ("a.csv", "|")])
def test_a_table_may_be_separated_otherwise(tmp_path, name, mark):
    assert one(tmp_path, name, f"Name{mark}Age\nAda{mark}36\n").text == "Name: Ada; Age: 36"


def test_a_table_without_a_header_keeps_its_first_row(tmp_path):
    assert one(tmp_path, "a.csv", "1815,Ada\n1912,Alan\n").text == "1815; Ada\n\n1912; Alan"


def test_json_is_said_as_keys_and_values(tmp_path):
    data = {
        "title": "Staff list",
        "people": [{"name": "Ada", "home": {"city": "London"}, "uses": ["x", "y"]}],
    }
    document = one(tmp_path, "a.json", json.dumps(data))
    assert document.title == "Staff list"
    lines = ["title: Staff list", "people 1.name: Ada", "people 1.home.city: London", "people 1.uses: x, y"]
    assert document.text == "\n".join(lines)
    assert [document.text[a:b] for a, b in sentences(document.text)] == lines


def test_json_lines_are_a_paragraph_each(tmp_path):
    text = one(tmp_path, "a.jsonl", '{"name": "Ada", "ok": true}\n\n{"name": "Alan", "ok": null}\n').text
    assert text == "name: Ada\nok: yes\n\nname: Alan"


@pytest.mark.parametrize(
    "shape",
    [
        lambda talk: json.dumps(talk),
        lambda talk: json.dumps({"messages": talk}),
        lambda talk: json.dumps(
            [{"conversations": [{"from": m["role"], "value": m["content"]} for m in talk]}]
        ),
    ],
)
def test_a_chat_is_a_paragraph_per_message(tmp_path, shape):
    talk = [{"role": "user", "content": "Hi.\n\nAll well?"}, {"role": "assistant", "content": "Yes."}]
    assert one(tmp_path, "a.json", shape(talk)).text == "User: Hi.\nAll well?\n\nAssistant: Yes."


def test_chat_lines_and_parts_are_read(tmp_path):
    lines = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}]
    lines += [{"role": "assistant", "content": "Hello"}]
    text = one(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))).text
    assert text == "User: Hi\n\nAssistant: Hello"


# --- folders ----------------------------------------------------------------------------------


def test_a_folder_is_read_in_order_without_what_is_not_the_users(tmp_path):
    for name in [
        "b.md",
        "a/x.txt",
        "a/B.txt",
        ".git/c.md",
        "node_modules/d.md",
        "__pycache__/e.md",
        ".hidden.md",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"Text of {name}")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\0")
    loaded = load(tmp_path)
    assert [document.source for document in loaded.documents] == ["b.md", "a/B.txt", "a/x.txt"]
    assert loaded.ignored == ("photo.png",)
    assert not loaded.skipped


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("empty.md", b"", "empty"),
        ("blank.txt", b"  \n ", "no text"),
        ("binary.txt", b"\x00\x01\x02" * 50, "binary"),
        ("bad.json", b'{"a": ', "not valid JSON"),
        ("bad.jsonl", b'{"a": 1}\nnope\n', "line 2"),
        ("deep.json", b"[" * 200_000, "nested too deeply"),
        ("large.txt", b"x" * 2000, "more than the 1,000 allowed"),
        ("page.pdf", b"<html>not found</html>", "not a PDF"),
        ("cut.pdf", b"%PDF-1.4\n1 0 obj <<", "damaged"),
        ("old.docx", b"\xd0\xcf\x11\xe0" + b"x" * 99, "password"),
        ("not.docx", b"hello", "not a whole Office file"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_goes_on(tmp_path, name, data, reason):
    (tmp_path / "good.txt").write_text("Fine.")
    (tmp_path / name).write_bytes(data)
    loaded = load(tmp_path, max_bytes=1000 if name == "large.txt" else 10**7)
    assert [document.source for document in loaded.documents] == ["good.txt"]
    (error,) = loaded.skipped
    assert error.source == name and reason in error.reason
    assert name in loaded.summary()


def test_the_summary_says_what_was_read_and_what_was_not(tmp_path):
    (tmp_path / "a.md").write_text("Text.")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    assert load(tmp_path).summary().splitlines() == [
        "Read 1 document (1 markdown): 5 characters",
        "Not read, 1 file:",
        "  b.txt: it is empty. Fill it or remove it.",
        "Ignored, 1 file of kinds we do not read: .png (1)",
    ]


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DocumentError, match="no such file or folder"):
        load(tmp_path / "nowhere")


def test_a_folder_with_nothing_to_read_says_why(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(NothingToTeach, match=r"(?s)a\.txt: it is empty.*b\.png: not of a kind"):
        load(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("Secret.")
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "more.txt").write_text("More.")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.txt").write_text("Open.")
    (inner / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inner / "folder").symlink_to(tmp_path / "outer")
    (inner / "same.txt").symlink_to(inner / "a.txt")
    loaded = load(inner)
    assert [document.text for document in loaded.documents] == ["Open."]
    assert sorted(error.source for error in loaded.skipped) == ["folder", "link.txt"]


def test_a_copy_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("Same.")
    (tmp_path / "b.txt").write_text("Same.")
    loaded = load(tmp_path)
    assert [document.source for document in loaded.documents] == ["a.txt"]
    assert "same text as a.txt" in loaded.skipped[0].reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("Fine.")
    assert "a device or a pipe" in load(tmp_path).skipped[0].reason


def test_a_text_file_named_by_the_user_is_read_whatever_its_suffix(tmp_path):
    assert one(tmp_path, "notes.xyz", "Some notes.").text == "Some notes."


def test_progress_is_told_before_each_file_and_at_the_end(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    told = []
    load(tmp_path, progress=lambda done, total, source: told.append((done, total, source)))
    assert told == [(0, 2, "a.txt"), (1, 2, "b.txt"), (2, 2, "")]


def test_every_document_can_be_hashed_and_split(tmp_path):
    document = one(tmp_path, "a.json", '{"a": "lone \\ud800 half", "b": "nul \\u0000"}')
    assert document.id and "\ud800" not in document.text and "\0" not in document.text
    assert split(document)


def test_every_kind_has_a_suffix_of_its_own():
    suffixes = [suffix for kind in KINDS.values() for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(
    "title", ["Microsoft Word - a.doc", "untitled", "report.pdf", "", None, "1", "PowerPoint Presentation"]
)
def test_a_title_that_a_program_made_up_is_none(title):
    assert sane_title(title) == ""


@pytest.mark.parametrize(
    "text, date",
    [("2024-03-05", "2024-03-05"), ("D:20230306135720-08'00'", "2023-03-06"), ("2024/3/5", "2024-03-05"),
     ("March 2024", None), ("2024-13-01", None), (None, None)],
)  # fmt: skip
def test_only_clear_dates_are_dates(text, date):
    assert iso_date(text) == date


# --- real files -------------------------------------------------------------------------------


def test_the_handbook_reads_as_a_person_would_read_it():
    (handbook,) = load(shared("contoso/pdfs/employee_handbook.pdf")).documents
    assert handbook.title == "Contoso Electronics Employee Handbook"
    assert len(handbook.page_starts) == 11 and handbook.valid_from == "2023-03-06"
    assert "creating cutting-edge systems that are both reliable and efficient." in handbook.text
    assert (
        "\n3. Innovation: We encourage creativity and support new ideas and approaches to our business.\n"
        in handbook.text
    )
    purpose = next(p for p in split(handbook) if p.heading.endswith("Workplace Violence > Purpose"))
    assert purpose.page == 6 and purpose.text.startswith("The purpose of this program is to promote a safe")


def test_a_filing_keeps_its_tables_and_loses_its_running_lines():
    (filing,) = load(shared("filings/3M_2018_10K.pdf")).documents
    assert filing.title == "10-K - 02/07/2019 - 3M Company"
    assert len(filing.page_starts) == 160
    assert "Operating leases (Note 16) | 1,111 | 283 | 208 | 153 | 122 | 92 | 253\n" in filing.text
    assert "Total debt (Note 12) | $ 14,622 | $ 1,211 | $ 1,330" in filing.text
    assert filing.text.count("Table of Contents") < 5
    assert "FINANCIAL INSTRUMENTS" in filing.text and "\ufffe" not in filing.text
    found = filing.text.index("FINANCIAL INSTRUMENTS", filing.page_starts[49])
    assert filing.page_at(found) == 50


def test_all_contoso_files_are_read():
    loaded = load(shared("contoso/pdfs"))
    assert len(loaded.documents) == 6 and not loaded.skipped
    assert len({document.title for document in loaded.documents}) == 6
