"""The compiler passes, in the order in which data flows through them.

`capture` turns a module and its inputs into a graph, `constrain` reads off the graph which neurons must share a change
of basis (one rule for each operation, in `rules`), `solve` finds what is free, `scale` multiplies the weights, and
`rewrite` emits the new network. `graph` and `domain` hold what all of them know; `check_graph` states what must be true
of a graph after each pass. Open `capture/capture.py` first.
"""
