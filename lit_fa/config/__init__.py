"""How configurations are read: YAML files, words of a command line, and one-line errors about both."""
