"""One file per command: `add_arguments(parser)` and `run(arguments)`; heavy imports wait until a command runs."""
