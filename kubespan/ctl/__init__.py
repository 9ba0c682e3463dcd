"""Words on a terminal: what a node knows, as Talos would print it."""
