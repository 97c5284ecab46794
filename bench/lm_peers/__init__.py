"""What the language model's benches compare it with, and how they measure: baselines that are given
every advantage they can use, workers that time one thing in one process, and bars."""
