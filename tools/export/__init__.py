"""Files for other viewers: a teleportation in, a page of HTML or a graph for Model Explorer out."""
