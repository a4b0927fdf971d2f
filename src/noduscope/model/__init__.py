"""The networks, their bundles on disk, and the engine that runs them."""
