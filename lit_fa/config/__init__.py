"""Reading of configs: YAML files, the words of a command line, and one-line errors about both."""
