import sys
from pathlib import Path

# The benches are scripts, not a package: they find each other by their folder, as when run.
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
