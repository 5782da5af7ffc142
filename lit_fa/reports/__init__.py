"""What a person reads of the results: console tables, cards, CSV, LaTeX, figures and HTML pages."""
