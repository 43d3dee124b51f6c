"""The kinds that are read in a child process, and the attacks it is there for."""

import io
import time
import zipfile

import docx
import pptx
import pytest

from imprint.documents import KINDS, load
from imprint.documents.kinds import Kind

# --- small files made here --------------------------------------------------------------------


def pdf(pages, extra=(), trailer=""):
    """A PDF whose pages hold these lines: each (x, y, size, text), Helvetica, size in points."""
    kids = " ".join(f"{10 + 2 * n} 0 R" for n in range(len(pages)))
    objects = {
        1: "<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    for n, lines in enumerate(pages):
        drawn = "\n".join(f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET" for x, y, size, text in lines)
        fonts = "/Resources << /Font << /F1 3 0 R >> >>"
        box = "/MediaBox [0 0 612 792]"
        objects[10 + 2 * n] = f"<< /Type /Page /Parent 2 0 R {box} {fonts} /Contents {11 + 2 * n} 0 R >>"
        objects[11 + 2 * n] = f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream"
    objects |= dict(extra)
    data, offsets = b"%PDF-1.4\n", {}
    for number, body in objects.items():
        offsets[number] = len(data)
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{number} 1\n{offset:010} 00000 n \n" for number, offset in offsets.items())
    end = f"xref\n{table}trailer\n<< /Size 999 /Root 1 0 R {trailer} >>\nstartxref\n{len(data)}\n%%EOF"
    return data + end.encode()


def prose(*lines, top=700):
    return [(72, top - 14 * n, 11, line) for n, line in enumerate(lines)]


def saved(thing):
    stream = io.BytesIO()
    thing.save(stream)
    return stream.getvalue()


def repacked(data, change):
    """The archive with `change(name, content)` in place of each part."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return stream.getvalue()


def one(folder, name, data):
    (folder / name).write_bytes(data)
    (document,) = load(folder / name).documents
    return document


def refusal(folder, name, data, **limits):
    """Why the file was not read, though one beside it was."""
    (folder / "good.html").write_bytes(b"<p>Fine.</p>")
    (folder / name).write_bytes(data)
    loaded = load(folder, **limits)
    assert [document.text for document in loaded.documents] == ["Fine."]
    (error,) = loaded.skipped
    assert error.source == name
    return error.reason


# --- PDF --------------------------------------------------------------------------------------


def test_the_lines_of_a_pdf_become_sentences_and_paragraphs(tmp_path):
    lines = prose("Every employee of the company may take leave, and the", "leave is paid. Ask early.")
    lines += prose("A second paragraph stands below the first one, on its", "own.", top=640)
    text = one(tmp_path, "a.pdf", pdf([lines])).text
    assert text == (
        "Every employee of the company may take leave, and the leave is paid. Ask early.\n\n"
        "A second paragraph stands below the first one, on its own."
    )


def test_larger_lines_of_a_pdf_are_headings(tmp_path):
    body = prose("Text that is long enough to be the body of the page.", top=660)
    document = one(tmp_path, "a.pdf", pdf([[(72, 700, 20, "Paid Leave"), *body]]))
    assert document.text.startswith("# Paid Leave\n\nText that")
    assert document.title == "Paid Leave"


def test_a_row_of_a_pdf_stays_a_line(tmp_path):
    rows = [
        (x, 700 - 14 * n, 11, f"{word}{n}")
        for n in range(2)
        for x, word in [(72, "cost"), (250, "$"), (300, "9")]
    ]
    assert one(tmp_path, "a.pdf", pdf([rows])).text == "cost0 | $0 | 90\ncost1 | $1 | 91"


def test_a_sentence_goes_on_over_the_page_without_header_and_number(tmp_path):
    pages = []
    for n, letter in enumerate("abcde"):
        body = prose(
            f"sheet {letter} begins here and goes on to where it is cut",
            "at its foot, well before the true end",
        )
        pages.append([(72, 760, 9, "Acme Handbook"), *body, (300, 40, 9, f"{n + 1}")])
    document = one(tmp_path, "a.pdf", pdf(pages))
    assert "Acme" not in document.text and "1" not in document.text
    begin = document.page_starts[1]
    assert document.text[begin - 9 :].startswith("true end sheet b begins")
    assert document.page_at(begin) == 2


def test_pages_without_text_are_told(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf([prose("Some text."), [], prose("More text.")]))
    loaded = load(tmp_path)
    assert loaded.notes == ("a.pdf: page 2 of 3 has no text layer",)
    assert loaded.notes[0] in loaded.summary()


def test_a_scan_is_called_a_scan(tmp_path):
    assert "it is a scan" in refusal(tmp_path, "a.pdf", pdf([[], []]))


def test_an_encrypted_pdf_is_called_encrypted(tmp_path):
    lock = f"<< /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >>"
    data = pdf([prose("Secret.")], extra={5: lock}, trailer="/Encrypt 5 0 R /ID [<00> <00>]")
    assert "encrypted" in refusal(tmp_path, "a.pdf", data)


def test_a_pdf_gives_its_title_and_date(tmp_path):
    about = "<< /Title (Leave Policy) /CreationDate (D:20240305120000Z) >>"
    document = one(tmp_path, "a.pdf", pdf([prose("Text.")], extra={5: about}, trailer="/Info 5 0 R"))
    assert (document.title, document.valid_from) == ("Leave Policy", "2024-03-05")


# --- Word and PowerPoint ----------------------------------------------------------------------


def word_file():
    word = docx.Document()
    word.core_properties.title = "Leave Policy"
    word.add_heading("Leave", level=1)
    word.add_paragraph("Leave is paid.")
    word.add_paragraph("Ask early", style="List Bullet")
    word.add_paragraph("Tell your team", style="List Bullet")
    table = word.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Kind", "Days", "Sick", "10"], strict=True):
        cell.text = text
    word.add_heading("Rules", level=2)
    word.add_paragraph("Be fair.")
    return saved(word)


def test_a_word_file_keeps_headings_lists_and_tables(tmp_path):
    document = one(tmp_path, "a.docx", word_file())
    assert document.title == "Leave Policy"
    lists = "- Ask early\n- Tell your team\n\nKind | Days\nSick | 10"
    assert document.text == f"# Leave\n\nLeave is paid.\n\n{lists}\n\n## Rules\n\nBe fair."


def test_the_date_of_a_template_is_not_the_date_of_a_document(tmp_path):
    assert one(tmp_path, "a.docx", word_file()).valid_from is None


def test_slides_are_pages(tmp_path):
    deck = pptx.Presentation()
    for title, bullets in [("Plan", ["Start", "Finish"]), ("Cost", ["Low", "High"])]:
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = "\n".join(bullets)
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    document = one(tmp_path, "a.pptx", saved(deck))
    first = "# Plan\n\n- Start\n- Finish"
    assert document.text == f"{first}\n\n# Cost\n\n- Low\n- High\n\nSay it slowly."
    assert document.page_starts == (0, len(first) + 2)
    assert document.title == "Plan"


def test_a_zip_bomb_is_not_opened(tmp_path):
    bomb = repacked(
        word_file(), lambda name, data: data + b"\0" * (64 * 2**20 if "document.xml" in name else 0)
    )
    begun = time.perf_counter()
    assert "zip bomb" in refusal(tmp_path, "a.docx", bomb)
    assert time.perf_counter() - begun < 10


def test_xml_entities_are_refused(tmp_path):
    def laden(name, data):
        if name != "word/document.xml":
            return data
        entity = b'<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b SYSTEM "file:///etc/passwd">]><w:document'
        return data.replace(b"<w:document", entity, 1).replace(b"Leave is paid.", b"&a;&b;")

    assert "declares XML entities" in refusal(tmp_path, "a.docx", repacked(word_file(), laden))


def test_slides_named_as_a_word_file_are_refused(tmp_path):
    assert "not a Word one" in refusal(tmp_path, "a.docx", saved(pptx.Presentation()))


# --- HTML -------------------------------------------------------------------------------------


def test_a_web_page_is_read_as_it_is_seen(tmp_path):
    page = """<html><head><title>Acme</title><script>evil()</script><style>p {}</style></head><body>
      <nav>Home About</nav><h1>Leave <b>policy</b></h1><p>Leave is
      <i>paid</i>.<br>Ask early.</p><ul><li>One</li><li>Two <ul><li>Nested</li></ul></li></ul>
      <table><tr><th>Kind</th><th>Days</th></tr><tr><td>Sick</td><td>10</td></tr></table>
      <div hidden>unseen</div><!-- unseen --><h2>End</h2><pre>a = 1
  b</pre>tail</body></html>"""
    document = one(tmp_path, "a.html", page.encode())
    assert document.title == "Leave policy"
    lists = "- One\n- Two\n  - Nested\n\nKind | Days\nSick | 10"
    code = "```\na = 1\n  b\n```"
    assert document.text == (
        f"# Leave policy\n\nLeave is paid.\nAsk early.\n\n{lists}\n\n## End\n\n{code}\n\ntail"
    )


def test_the_encoding_that_a_page_declares_is_honoured(tmp_path):
    page = '<meta charset="windows-1251"><p>Привет, мир</p>'
    assert one(tmp_path, "a.html", page.encode("cp1251")).text == "Привет, мир"


def test_a_page_nested_without_end_harms_nobody(tmp_path):
    (tmp_path / "a.html").write_bytes(b"<div>" * 100_000 + b"deep")
    (tmp_path / "b.html").write_bytes(b"<p>Fine.</p>")
    assert "Fine." in [document.text for document in load(tmp_path).documents]


# --- the sandbox itself -----------------------------------------------------------------------

BAD_READERS = """
import os, sys, time
from imprint.documents.reading import Reading

def bad(data, source):
    what = data.decode().strip()
    if what == "sleep": time.sleep(60)
    if what == "spin":
        while True: pass
    if what == "eat": return Reading("x" * 10**10)
    if what == "crash": os.abort()
    if what == "quit": os._exit(0)
    if what == "write": open(source + ".made", "w").write("x")
    if what == "call":
        import socket
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    if what == "spawn": os.system("true")
    if what == "print": print("noise"); sys.stdout.flush()
    if what == "torch": return Reading("torch is here" if "torch" in sys.modules else "no torch")
    if what == "environment": return Reading(" ".join(os.environ))
    return Reading(what)
"""


@pytest.fixture
def bad_kinds(tmp_path, monkeypatch):
    """KINDS with one more, '.bad', whose files say what its reader shall do to us."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "bad_readers.py").write_text(BAD_READERS)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    return {**KINDS, "bad": Kind("bad_readers:bad", (".bad",), sandboxed=True)}


def read_bad(folder, kinds, *orders, **limits):
    folder = folder / "files"
    folder.mkdir()
    for n, order in enumerate([*orders, "fine"]):
        (folder / f"{n}.bad").write_text(order)
    return load(folder, kinds=kinds, **limits)


@pytest.mark.parametrize("order", ["sleep", "spin"])
def test_a_parser_that_hangs_is_stopped_and_the_rest_goes_on(tmp_path, bad_kinds, order):
    begun = time.perf_counter()
    loaded = read_bad(tmp_path, bad_kinds, order, timeout_s=1.5)
    assert time.perf_counter() - begun < 15
    assert [document.text for document in loaded.documents] == ["fine"]
    assert loaded.skipped[0].source == "0.bad" and "longer than 1.5 s" in loaded.skipped[0].reason


def test_a_parser_that_eats_memory_is_stopped(tmp_path, bad_kinds):
    loaded = read_bad(tmp_path, bad_kinds, "eat", memory_bytes=2**29)
    assert "memory" in loaded.skipped[0].reason and loaded.documents[0].text == "fine"


@pytest.mark.parametrize("order", ["crash", "quit"])
def test_a_parser_that_crashes_costs_only_its_file(tmp_path, bad_kinds, order):
    loaded = read_bad(tmp_path, bad_kinds, order, order)
    assert len(loaded.skipped) == 2 and "broke down" in loaded.skipped[0].reason
    assert loaded.documents[0].text == "fine"


@pytest.mark.parametrize("order", ["call", "spawn", "write"])
def test_a_parser_reaches_neither_network_nor_programs_nor_disk(tmp_path, bad_kinds, order):
    loaded = read_bad(tmp_path, bad_kinds, order)
    assert [error.source for error in loaded.skipped] == ["0.bad"]
    assert "gave up" in loaded.skipped[0].reason


def test_what_a_parser_prints_is_no_answer(tmp_path, bad_kinds):
    assert [d.text for d in read_bad(tmp_path, bad_kinds, "print").documents] == ["print", "fine"]


def test_the_child_sees_no_torch_and_none_of_our_secrets(tmp_path, bad_kinds, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    said, environment, _ = (d.text for d in read_bad(tmp_path, bad_kinds, "torch", "environment").documents)
    assert said == "no torch" and "HF_TOKEN" not in environment


def test_a_module_in_the_folder_does_not_become_the_parser(tmp_path, monkeypatch):
    (tmp_path / "bs4.py").write_text("raise SystemExit('owned')")
    (tmp_path / "a.html").write_bytes(b"<p>Fine.</p>")
    monkeypatch.chdir(tmp_path)
    assert "Fine." in [document.text for document in load(".").documents]
