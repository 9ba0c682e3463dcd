"""Talos machine configurations: what one tells of a cluster, and the patch that brings its machines here."""
