"""KubeSpan for every Linux machine: the mesh itself, which runs with no console installed."""

__version__ = "0.1.0"
