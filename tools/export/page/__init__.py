"""The page of `inspect --html`: its template, its style and its code, which `html.py` reads as files."""
