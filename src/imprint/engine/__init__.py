"""One base model, many adapters, one pass: training and serving both stand on it."""

from imprint.engine.multi_adapter import Engine, Seat, place

__all__ = ["Engine", "Seat", "place"]
