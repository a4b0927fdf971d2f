"""Measures every stage of ``noduscope detect`` beside a reference implementation of the same stage."""
