"""Models of the command line: a name or `file.py:factory` in, a network and example inputs on a device out."""
