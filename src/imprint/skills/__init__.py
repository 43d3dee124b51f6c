"""Small adapters that make the bundled base a better writer: `read` and `ask`. See README.md beside them."""

from imprint.skills.writer import SKILLS, SkilledWriter, skill

__all__ = ["SKILLS", "SkilledWriter", "skill"]
