"""Reading chest CTs of any usual format into a `Scan`.

`noduscope.io.read` holds the two public functions; a reader that meets a file of another kind
raises `NotThisFormat`, and what all readers said becomes the message when none of them fits.
"""


class NotThisFormat(Exception):
    """The file is of another kind; the message says why. Never leaves this package."""
