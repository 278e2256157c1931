"""These tests exist only where there is a CUDA device: ``pytest -m gpu -n0``."""

import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
