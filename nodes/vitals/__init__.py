"""How the console itself stands: the parts that it is made of, what it keeps, and what it counted."""
