"""What on this machine would keep the mesh from working, or lock somebody out, each with the exact remedy.

`look` reads the machine into `Facts`; `find` judges them and touches nothing. A remedy is a command to copy.
"""

from __future__ import annotations

from kubespan.agent.preflight.facts import Facts
from kubespan.agent.preflight.find import find
from kubespan.agent.preflight.look import look

__all__ = ["Facts", "find", "look"]
