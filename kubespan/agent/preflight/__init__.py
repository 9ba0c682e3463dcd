"""What on this machine would keep the mesh from working, or lock somebody out, each with the exact remedy.

`look` reads the machine into `Facts`; `find` judges them and touches nothing. A remedy is a command to copy.
"""
