"""The settings of the console: a frame, and a module for each of its tabs."""
