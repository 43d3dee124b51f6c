"""Small adapters that make the bundled base a better writer: `read`, `ask`, `restate`. See the card beside each."""

from imprint.skills.writer import SKILLS, SkilledWriter, skill

__all__ = ["SKILLS", "SkilledWriter", "skill"]
