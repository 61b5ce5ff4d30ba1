"""Entry point: `python scripts/train_tiny/train.py flux-dev`, from any folder of a fresh clone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Waiting threads must sleep, not spin: with other work on the same cores, spinning made a step
# ten times as slow. OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# As a script, this folder would come first on the path and its modules would lose their package.
scripts = Path(__file__).resolve().parents[1]
sys.path[0] = str(scripts)
# Maps and LoRAs are made and read by the server's own code.
sys.path.insert(1, str(scripts.parent))

from train_tiny.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
