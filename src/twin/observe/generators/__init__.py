"""Every generator of tests there is; a further one is an entry here."""

from collections.abc import Callable, Mapping

from twin.observe.generators.characterization import Characterization
from twin.observe.generators.examples import Examples
from twin.observe.generators.guards import Guards
from twin.observe.generators.model import Model
from twin.observe.proposals import Generator, Means

GENERATORS: Mapping[str, Callable[[Means], Generator]] = {
    "guards": Guards,
    "examples": Examples,
    "characterization": Characterization,
    "backend": Model,
}
"""`backend` asks a model and is taken only where one is named."""
