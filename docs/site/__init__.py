"""The documentation site: pages of `docs`, cards, and generated pages, put together and given to Sphinx."""
