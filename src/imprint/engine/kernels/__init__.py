"""The grouped low-rank update, in plain PyTorch (reference.py) and in Triton (fused.py)."""
