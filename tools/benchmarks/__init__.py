"""What `fxteleport bench` measures: one file a question."""
