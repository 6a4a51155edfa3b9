"""Small random networks of other libraries, called as people call them: one file a field, one function a network."""
