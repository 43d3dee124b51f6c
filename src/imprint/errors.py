"""Everything that can go wrong, as a tree.

    ImprintError
      BadInput            what was given cannot be used: a file, a name, a setting
        DocumentError       one file could not be read; names it and says why
        NothingToTeach      no document of those given had text
        BadName             a name that the registry does not take
        BadSetting          a recipe, budget or option that is wrong
        BadQuestions        a questions file that cannot be used
        TooLarge            more bytes than are taken here
      NotFound            no such adapter, version, model or optional package
        NoSuchAdapter
        NoSuchBase
        NoSuchEmbedder
        MissingPackage      says the install command
      WrongBase           an adapter met a base model that it was not trained on
      BrokenStore         files of the registry do not match their hashes
      StaleRun            a run folder that cannot be continued
      HeldBack            a new version that would lose too much is not published
      Diverged            an adapter's loss is no finite number any more
      Overloaded          a server has as much to do as it may take on; try again later
      Cancelled           somebody asked for this work to end
      Unwritten           a writer stopped before all was written; carries the texts that came
        OverBudget        the next text would cost more than may be spent
        WriterFailed      a writer cannot be reached, or refuses what it is asked

Every message says what happened, what was found, and what to do.
"""

from collections.abc import Mapping
from typing import Any


class ImprintError(Exception):
    """Base of all errors that imprint raises on purpose."""


class BadInput(ImprintError):
    """What was given cannot be used."""


class DocumentError(BadInput):
    """One file could not be read."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class NothingToTeach(BadInput):
    """No document of those given had text."""


class BadName(BadInput):
    """A name that the registry does not take."""


class BadSetting(BadInput):
    """A recipe, budget or option that is wrong."""


class BadQuestions(BadInput):
    """A questions file that cannot be used."""


class TooLarge(BadInput):
    """More bytes than are taken here."""


class NotFound(ImprintError):
    """Something named is not there."""


class NoSuchAdapter(NotFound):
    """No adapter or version of that name."""


class NoSuchBase(NotFound):
    """No base model of that name."""


class NoSuchEmbedder(NotFound):
    """No embedding model of that name, or one that makes its vectors in a way we do not know."""


class MissingPackage(NotFound):
    """An optional package is not installed."""


class WrongBase(ImprintError):
    """An adapter met a base model that it was not trained on."""


class BrokenStore(ImprintError):
    """Files of the registry do not match their hashes."""


class StaleRun(ImprintError):
    """A run folder that cannot be continued."""


class HeldBack(ImprintError):
    """A new version answers wrongly what the present one answers rightly, and is not published."""


class Diverged(ImprintError):
    """The loss of an adapter, or its gradient, is not a finite number any more."""


class Overloaded(ImprintError):
    """A server has as much to do as it may take on."""


class Cancelled(ImprintError):
    """Somebody asked for this work to end."""


class Unwritten(ImprintError):
    """A writer stopped before all was written."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.texts: Mapping[int, Any] = {}
        """The texts that came before, by the place of their prompt."""


class OverBudget(Unwritten):
    """The next text would cost more than may be spent."""


class WriterFailed(Unwritten):
    """A writer cannot be reached, or refuses what it is asked."""
