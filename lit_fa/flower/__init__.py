"""The same rounds over Flower: the server is Lightning's trainer, and its executor sends each SuperNode its clients."""
