"""Reading chest CTs of any usual format into a `Scan`."""
