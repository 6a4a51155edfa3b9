"""The compiler passes, in order: capture, constrain (with its rules), solve, rewrite."""
