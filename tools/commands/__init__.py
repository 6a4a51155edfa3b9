"""The commands: parsed options in, something printed, files and an exit status out. One file a command."""
