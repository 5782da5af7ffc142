"""Federated rounds over Flower: the server is Lightning's trainer, whose executor sends each SuperNode its clients."""
