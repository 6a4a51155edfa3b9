"""What `inspect` shows: a plan in; trees, groups, differences and reasons out, as text or as plain data."""
