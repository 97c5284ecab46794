"""Token after token at the speed of memory: the network in one native call, torch where it cannot.

`engine` is the door; `packing` lays out weights, `library` is the border to C++, `states` holds the
streams' recurrent states.
"""

from twin.lm.decode.engine import Engine, LossChange, measure_loss_change
from twin.lm.decode.states import EngineState

__all__ = ["Engine", "EngineState", "LossChange", "measure_loss_change"]
