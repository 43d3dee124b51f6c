"""What can be done with a published adapter: ask it, alone or together with others; prove, certify and cite."""

from __future__ import annotations

import datetime
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imprint import base as bases
from imprint import certifying, clock, scaling
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.certifying import Asked, Kept
from imprint.certifying.examined import Examined, judge_of, rivals_of
from imprint.chosen import ChosenWriter, speaking
from imprint.continual import tombstones
from imprint.continual.entries import adapters_of, base_of
from imprint.corpus import Corpus, to_teach
from imprint.engine import Engine, Seat, choice
from imprint.errors import BadInput, BadSetting, NotFound
from imprint.evaluation import canaries, certificate, citing, confidence, open_book
from imprint.evaluation import proof as proofs
from imprint.evaluation.certificate import Certificate
from imprint.evaluation.citing import Cited
from imprint.evaluation.closed_book import Question
from imprint.evaluation.confidence import Verdict
from imprint.evaluation.examination import read_by_name
from imprint.evaluation.forgetting import general_perplexity
from imprint.evaluation.open_book import Search
from imprint.evaluation.proof import Proof
from imprint.evaluation.questions import given_questions
from imprint.evaluation.rag_search import searched_by, searching
from imprint.evaluation.systems import told
from imprint.home import home_folder
from imprint.recipe import RAW_TEXT, recipe_of
from imprint.registry import Registry
from imprint.run_folder import RunFolder, questions_from_json
from imprint.skills.writer import SkilledWriter
from imprint.stages import job_of, run_of, training_progress, with_rank
from imprint.synthesis.audit import joined, lines
from imprint.synthesis.novelty import without_repeats
from imprint.synthesis.raw_text import RawText
from imprint.training.sft import train
from imprint.types import Adapter, Example, Passage, Prompt, Text, Turn, Version, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.endpoint import Endpoint, EndpointWriter
from imprint.writers.local import LocalWriter


@dataclass(frozen=True, slots=True)
class Answer:
    """What the weights answer, and how far they can be believed."""

    text: str
    verdict: Verdict | None = None
    """Whether it is to be given, and how likely it is right; None where the version keeps nothing to judge it by,
    or where it says itself that it does not know."""

    @property
    def declined(self) -> bool:
        """Whether it is so unsure that it is better to say that one does not know."""
        return self.verdict is not None and not self.verdict.known

    @property
    def given(self) -> str:
        """The answer, or in its place that it is not known."""
        return confidence.DECLINED if self.declined else self.text


def open(name: str, *, home: Path | None = None) -> Taught:  # noqa: A001 - the word a user says
    """The adapter of that name ('handbook' or 'handbook@2'). Raises NoSuchAdapter."""
    where = home or home_folder()
    registry = Registry(where)
    return Taught(registry.get(name), registry, where)


def open_as_of(name: str, date: str, *, home: Path | None = None) -> tuple[Taught, str | None]:
    """The version of a name that held on a day (ISO date), and the day to be said in the question where none did:
    then the first one there is is asked "As of 2026-03-01: ...", which updates teach. Raises NoSuchAdapter."""
    try:
        day = datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise BadSetting(f"A date looks like 2026-03-01; got '{date}'.") from None
    where = home or home_folder()
    registry = Registry(where)
    versions = registry.versions(name)
    held = [v for v in versions if v.details.get("as_of", v.created_at[:10]) <= day]
    return Taught(held[-1] if held else versions[0], registry, where), None if held else day


def together(names: Sequence[str], *, home: Path | None = None) -> Together:
    """Several adapters that are asked as one. Raises NoSuchAdapter, or BadInput where they are not two or more."""
    opened = [open(name, home=home) for name in names]
    if len({str(taught.version) for taught in opened}) < max(2, len(opened)):
        raise BadInput(f"'{'+'.join(names)}' must join two or more different adapters, as in 'handbook+prices'.")
    return Together(opened)


@dataclass
class Together:
    """Adapters of one base, each of its own documents."""

    taught: list[Taught]

    def ask(
        self, question: str, *, how: str = "choose", max_tokens: int = 128, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """The answer from the weights alone. `how`: 'choose' asks the adapter that the question is about, which is
        the one to which it has become likelier; 'all' lets their updates add up (docs/log.md has both measured)."""
        if how not in ("choose", "all"):
            raise BadSetting(f"Adapters are asked together as 'choose' or 'all'; got '{how}'.")
        prompt = Prompt.ask(question, max_tokens=max_tokens, temperature=temperature)
        model = self.taught[0].model()
        read = [adapter for t in self.taught for adapter in t.adapters()]
        engine = Engine(model, slots=len(read))
        with speaking(engine, read, self.name) as writer:
            if how == "choose":
                texts = writer.write([prompt], seed=seed)
            else:
                with engine.wearing(writer.seats):
                    texts = LocalWriter(model, self.name).write([prompt], seed=seed)
        for taught in self.taught:
            texts = taught.withholding([prompt], texts)
        return texts[0].text

    @property
    def name(self) -> str:
        return "+".join(str(taught.version) for taught in self.taught)


@dataclass
class Taught:
    """A published adapter, ready to be asked."""

    version: Version
    registry: Registry = field(repr=False)
    home: Path = field(repr=False)
    base: Base | None = field(default=None, repr=False)
    """Loaded when it is first needed."""

    def ask(
        self,
        question: str,
        *,
        routed: bool = False,
        max_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        anyway: bool = False,
    ) -> str:
        """The answer from the weights alone: no prompt, no documents in the context.

        "I do not know." where a certificate of this version found answers as unsure as this one better withheld;
        `anyway` gives it all the same. `routed`: the untouched base answers what is not about the documents. Raises
        BadSetting for a version that was taught before it was measured what is."""
        answer = self.answer(question, routed=routed, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return answer.text if anyway else answer.given

    def answer(
        self,
        question: str,
        *,
        routed: bool = False,
        max_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Answer:
        """The same answer with how likely it is right, where a certificate measured that. What the base says to a
        routed question, and what is drawn at a temperature, was not measured: there is no verdict on it."""
        prompt = Prompt.ask(question, max_tokens=max_tokens, temperature=temperature)
        if routed and not self.is_about(question):
            return Answer(LocalWriter(self.model()).write([prompt], seed=seed)[0].text)
        text = self.write([prompt], seed=seed)[0]
        kept = confidence.kept(self.registry.reports(self.version))
        if kept is None or temperature or not told(text.text):
            return Answer(text.text)
        return Answer(text.text, confidence.verdict(kept, confidence.of_text(text)))

    def is_about(self, question: str) -> bool:
        """Whether a question is about the documents: likelier to the adapter than to the untouched base, by more
        than most general text (engine.choice). Raises BadSetting where that was not measured at teaching."""
        told = adapters_of(self.version)
        limits = [shard.get("router", {}).get("threshold") for shard in told]
        if None in limits:
            raise BadSetting(f"For {self.version} it was not measured what is about its documents. Teach it again.")
        engine = Engine(self.model(), slots=len(limits))
        with speaking(engine, self.adapters(), self.name) as writer:
            gains_A = choice.gains(engine, writer.seats, [question])[0]
        return choice.best_above(gains_A, limits) is not None

    def chat(self, turns: Sequence[Turn], *, max_tokens: int = 256) -> str:
        """The next answer of a conversation; its oldest turns are let go where they outgrow the window."""
        kept = list(turns)
        model = self.model()
        while len(kept) > 1 and len(model.prompt_ids(kept)) + max_tokens > model.window_tokens:
            kept = kept[2:]
        return self.write([Prompt(tuple(kept), max_tokens=max_tokens)], seed=0)[0].text

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """Answers to many prompts at once: this adapter is a Writer too."""
        adapters = self.adapters()
        with speaking(Engine(self.model(), slots=len(adapters)), adapters, self.name) as writer:
            return self.withholding(prompts, writer.write(prompts, seed=seed))

    def withholding(self, prompts: Sequence[Prompt], texts: Sequence[Text]) -> list[Text]:
        """The texts, without those that only bear out what is to be forgotten."""
        judge = tombstones.judge_of(self.registry, self.home, self.version)
        if judge is None:
            return list(texts)
        return [
            Text(tombstones.WITHHELD) if judge.holds(prompt.turns[-1].text, text.text) else text
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def _refuse_pending(self) -> None:
        """Raises BadInput while something is to be forgotten: the weights still tell it."""
        kept = Corpus.kept(self.home, self.version.corpus_hash)
        ids = {d.id for d in kept.documents} if kept else set()
        for name in tombstones.names_of(self.version):
            to_forget = tombstones.pending(self.registry, name)
            if any(name == self.version.name or target.touched & ids for target in to_forget):
                raise BadInput(
                    f"{self.version} holds what is to be forgotten, and is neither measured nor given away. Finish "
                    f"that first: imprint forget {name}."
                )

    def corpus(self) -> Corpus | None:
        """The documents that it was taught, without what is to be forgotten; None where they are not kept here."""
        kept = Corpus.kept(self.home, self.version.corpus_hash)
        if kept is None:
            return None
        return Corpus(tuple(tombstones.not_to_be_forgotten(self.registry, self.version, kept.documents)))

    def adapters(self) -> list[Adapter]:
        """What this version is made of: one adapter, or a shard for each part of its documents."""
        return [adapter_folder.read(folder) for folder in self.registry.folders(self.version)]

    def export_for_peft(self, folder: Path) -> Path:
        """Writes the adapter as PEFT opens it, into a folder that is new or empty, which it returns.

        Raises BadInput for a kind that PEFT does not know, or a folder that holds something."""
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise BadInput(f"{folder} is there already and not an empty folder. Choose another place.")
        self._refuse_pending()
        adapter = adapter_folder.read(self.registry.folder(self.version))
        adapter_folder.write_for_peft(adapter, self.model(), folder)
        return folder

    @property
    def name(self) -> str:
        return str(self.version)

    @property
    def proof(self) -> Proof:
        """The latest proof; made now if there is none."""
        kept = [r for r in self.registry.reports(self.version) if r.name == "proof"]
        return proofs.from_json(kept[-1].details) if kept else self.prove()

    def prove(
        self,
        questions: str | Path | Sequence[Question] | None = None,
        *,
        raw_text: bool = False,
        seed: int = 0,
        watch: Watch = SILENT,
    ) -> Proof:
        """Held-out questions put to the weights, the untouched base, full context and RAG, and graded.

        With `raw_text`, the naive rival is trained too, for as many tokens. The proof is kept."""
        self._refuse_pending()
        asked, source = self._held_out(questions)
        model = self.model()
        corpus = self.corpus()
        adapters = self.adapters()
        notes: list[str] = []
        results: dict[str, Any] = {}
        answers: dict[str, Any] = {}

        def measure(key: str, prompt: Callable[[str], Prompt], writer: LocalWriter | ChosenWriter) -> None:
            watch.stage(f"Asking {len(asked)} questions: {key.replace('_', ' ')}")
            writer.progress = lambda done, n, rate: watch.progress("answers", done, n, f"{rate:.0f} tokens/s")
            results[key], answered = proofs.measure(
                writer, asked, prompt, lambda p: len(model.prompt_ids(p.turns)), seed=seed
            )
            answers[key] = proofs.shown(answered)

        before = general_perplexity(model)
        measure("untouched", open_book.closed, LocalWriter(model))
        if corpus is None:
            notes.append("The documents are not kept here: no full context, RAG or raw text to compare with.")
        else:
            context = open_book.full_context(
                corpus.documents, window_tokens=model.window_tokens, count_tokens=model.count_tokens
            )
            if context.left_out:
                notes.append(f"full context did not fit; cut: {', '.join(context.left_out)}")
            measure("full_context", context.prompt, LocalWriter(model, batch_tokens=60_000))
            passages = corpus.split(recipe_of(self.version).passage_tokens, model.count_tokens)
            notes.append(f"RAG searched {searched_by()}.")
            with searching(passages, model, watch) as search:
                measure("rag", lambda q: open_book.rag(q, search), LocalWriter(model))
            if raw_text:
                rival = self._raw_text_rival(corpus, model, seed, watch)
                with Engine(model, slots=1).attached(rival):
                    measure("raw_text", open_book.closed, LocalWriter(model, "raw_text"))
        engine = Engine(model, slots=len(adapters))
        with speaking(engine, adapters, self.name) as writer:
            measure("weights", open_book.closed, writer)
            after = _perplexity_wearing(engine, writer.seats)
        if len(adapters) > 1:
            notes.append(f"{len(adapters)} adapters, each of some of the documents: perplexity is their mean.")
        made = Proof(
            name=self.version.name,
            version=self.version.number,
            base=model.name,
            questions_from=source,
            n=results["weights"].n,
            systems={k: results[k] for k in proofs.SYSTEMS if k in results},
            general_perplexity={"before": before, "after": after},
            notes=tuple(notes),
            seed=seed,
            answers=answers,
        )
        self.registry.add_report(self.version, made.report())
        return made

    def certify(
        self,
        questions: str | Path | Sequence[Question] | None = None,
        examined: Examined | None = None,
        *,
        watch: Watch = SILENT,
    ) -> Certificate:
        """All systems on the same questions; what was forgotten, what is covered, where answers stand, how context
        rots. Kept with the version; killed, the same call goes on."""
        self._refuse_pending()
        wanted = examined or Examined()
        asked, source = self._held_out(questions)
        suites, texts = read_by_name(wanted.suites, wanted.texts)
        writers = [EndpointWriter(rival.endpoint) for rival in wanted.rivals]  # a missing key is told at once
        reader = EndpointWriter(wanted.judge) if isinstance(wanted.judge, Endpoint) else None
        watch.stage("Opening the base model")
        model, version = self.model(), self.version
        corpus = self.corpus() or Corpus(())
        others = [
            each
            for rival, writer in zip(wanted.rivals, writers, strict=True)
            for each in rivals_of(rival, writer, corpus.documents, model)
        ]
        all_asked = Asked(
            questions=asked,
            questions_from=source,
            systems=wanted.systems,
            parts=wanted.parts,
            suites=suites,
            texts=texts,
            rivals=others,
            usd_per_hour=wanted.usd_per_hour,
            judge=judge_of(wanted.judge, reader, model),
            samples=wanted.samples,
            seed=wanted.seed,
        )
        passages = corpus.split(recipe_of(self.version).passage_tokens, model.count_tokens)
        naive = functools.partial(self._raw_text_rival, corpus, model, wanted.seed, watch)
        with searching(passages, model, watch) as search:
            made = certifying.certify(
                (version.name, version.number),
                adapter_folder.read(self.registry.folder(version)),
                Engine(model, slots=3),
                all_asked,
                self._kept(corpus, passages, search if passages else None),
                self._certificate_rows(asked, model, wanted.seed),
                raw_text=naive if wanted.raw_text and passages else None,
                about={"adapter": version.adapter_hash, "search": searched_by(), "made_at": clock.now()},
                watch=watch,
            )
        self.registry.add_report(version, made.report())
        found = certifying.kept_confidence(made.parts, seed=wanted.seed)
        if found is not None:
            self.registry.add_report(version, found)
        return made

    def _kept(self, corpus: Corpus, passages: Sequence[Passage], search: Search | None) -> Kept:
        """What a certificate has to look at."""
        details = self.version.details
        ids = set(details.get("taught", ()))
        teachable = without_repeats(passages)
        return Kept(
            corpus.documents,
            passages,
            search,
            self.examples,
            taught=[passage for passage in teachable if passage.id in ids],
            left_out=[passage for passage in teachable if passage.id not in ids],
            canaries=canaries.from_json(details.get("canaries", ())),
        )

    def _certificate_rows(self, asked: Sequence[Question], model: Base, seed: int) -> RunFolder:
        """Where what is measured is kept, by all that it hangs on."""
        version = self.version
        dated = "".join(question.asked for question in asked if question.as_of)
        key = content_hash(
            str(certificate.FORMAT), version.adapter_hash, version.corpus_hash, repr(asked) + dated, searched_by(),
            model.revision, str(model.device.dtype), str(seed),
        )  # fmt: skip
        return RunFolder(self.home / "certificates" / key)

    def cite(self, question: str, answer: str, *, seed: int = 0) -> Cited:
        """The passages behind an answer, and whether they bear it out (evaluation.citing).

        Raises NotFound where the documents are not kept here."""
        corpus = self.corpus()
        if corpus is None:
            raise NotFound(f"The documents of {self.version} are not kept here: nothing can be cited from them.")
        model = self.model()
        reader = SkilledWriter(Engine(model, slots=1), LocalWriter(model))
        with searching(corpus.split(recipe_of(self.version).passage_tokens, model.count_tokens), model) as search:
            return citing.cite([(question, answer)], search, reader, seed=seed)[0]

    @property
    def audit(self) -> Mapping[str, Any]:
        """What the audit of the training text found, as JSON values, by adapter where there are several; and the
        curve of the same documents and recipe where one was made. Raises NotFound where there was no audit."""
        details = self.version.details
        found = [p for p in adapters_of(self.version) if "covered" in (p.get("audit") or {})]
        if not found:
            raise NotFound(f"{self.version} carries no audit: it was imported, or taught by an earlier build.")
        sources = {e["document"]: e["source"] for e in details.get("manifest", ())}
        report = found[0]["audit"]
        if "shards" in details:
            report = joined([([sources[id] for id in p["documents"]], p["audit"]) for p in found])
        measured = scaling.kept(self.home, self.version.corpus_hash, self.version.base, self.version.recipe)
        return {**report, "enough": {**report["enough"], **measured}}

    def audit_lines(self) -> list[str]:
        """The same in sentences."""
        return lines(self.audit)

    def examples(self, each: int | None = None) -> Iterator[Example]:
        """The training text, as long as its run is kept here; `each`: only so many of each kind."""
        met: Counter[str] = Counter()
        gone = {id for target in tombstones.targets(self.registry, self.version) for id in target.touched}
        for shard in adapters_of(self.version):
            for example in RunFolder(self.home / "runs" / str(shard.get("run"))).examples():
                if gone & {id.rpartition(":")[0] for id in example.passages}:
                    continue  # it is to be forgotten
                met[example.generator] += 1
                if each is None or met[example.generator] <= each:
                    yield example

    def _held_out(self, questions: str | Path | Sequence[Question] | None) -> tuple[list[Question], str]:
        asked = given_questions(questions)
        if asked is not None:
            return asked, _source(questions)
        kept = self.version.details.get("questions")
        if not kept:
            raise BadSetting(
                f"{self.version} has no held-out questions of its own. Give some with --questions FILE: "
                "one JSON object a line, with question and answer."
            )
        return questions_from_json(kept), str(self.version.details["questions_from"])

    def _raw_text_rival(self, corpus: Corpus, model: Base, seed: int, watch: Watch) -> Adapter:
        """An adapter of the same size, trained on the raw passages, all of them, for as many tokens."""
        taught = set(self.version.details["taught"])
        passages = [p for p in to_teach(corpus, recipe_of(self.version), model)[0] if p.id in taught]
        sized = with_rank(recipe_of(self.version), self.version.details.get("plan", {}).get("rank"))
        recipe = replace(sized, mix=RAW_TEXT.mix, objective="sft")
        run = run_of(self.home, corpus.hash, recipe, None, model, seed, str(self.version), None)
        run.write_examples(RawText().examples(passages, LocalWriter(model), seed=seed))
        job = replace(job_of(run, model, recipe, seed, passages), tokens=self.version.details["tokens"])
        watch.stage("Training on the bare documents")
        return train(Engine(model), job, checkpoint=run.checkpoint, progress=training_progress(watch)).adapter

    def model(self) -> Base:
        """The base that it was taught on, loaded when it is first needed."""
        if self.base is None:
            self.base = bases.load(base_of(self.version))
        return self.base


def _perplexity_wearing(engine: Engine, seats: Sequence[Seat]) -> float:
    """Perplexity on general text, the mean over adapters worn one by one."""
    found = []
    for seat in seats:
        with engine.wearing([seat]):
            found.append(general_perplexity(engine.base))
    return sum(found) / len(found)


def _source(questions: Any) -> str:
    return f"of {Path(questions).name}" if isinstance(questions, str | Path) else "given by the caller"
