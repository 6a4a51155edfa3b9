"""What a user runs: the command line. A command is a file of `commands/`; the other folders are what commands use."""
