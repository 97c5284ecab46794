"""The room costs nothing until it is used: importing it loads no torch, nor needs it."""

import subprocess
import sys
import textwrap


def python(script: str) -> str:
    """What a fresh interpreter says, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_the_room_loads_no_torch() -> None:
    loaded = python("""
        import sys
        import twin.lm
        import twin.lm.checkpoint, twin.lm.config, twin.lm.errors, twin.lm.tokenizer
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """)
    heavy = {"torch", "transformers", "tokenizers", "safetensors", "accelerate", "matplotlib"}
    assert not heavy & set(loaded.split())


def test_without_torch_shapes_presets_and_their_cost_are_still_told() -> None:
    told = python("""
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        from twin.lm.config import PRESETS, num_parameters, preset, state_bytes
        print(*(num_parameters(preset(name)) > state_bytes(preset(name)) > 0 for name in PRESETS))
    """)
    assert set(told.split()) == {"True"}
