"""The rules of the mesh: values and decisions. No input, no output, no clock, no randomness of its own."""
