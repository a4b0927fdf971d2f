"""The one exception tree.

::

    NoduscopeError
    ├── InputRefused        what the user gave cannot be used          (exit status 3)
    │   ├── NoScanFound     nothing there that reads as a chest CT
    │   └── AmbiguousInput  several series fit and none was chosen
    ├── SettingsError       a settings file or value is wrong           (exit status 2)
    └── ModelError          a model bundle is missing, damaged or foreign (exit status 3)

Every message says what came, what was expected and what to do next. Catch ``NoduscopeError`` to
catch all that this package raises on purpose.
"""


class NoduscopeError(Exception):
    """Base of all errors that noduscope raises on purpose."""

    exit_status = 1


class InputRefused(NoduscopeError):
    """The input cannot be used; the message names the reason and the remedy."""

    exit_status = 3


class NoScanFound(InputRefused):
    """Nothing at the given place reads as a chest CT."""


class AmbiguousInput(InputRefused):
    """Several series fit and none was chosen; the message lists them."""


class SettingsError(NoduscopeError):
    """A settings file, key or value is wrong."""

    exit_status = 2


class ModelError(NoduscopeError):
    """A model bundle is missing, damaged or not one of ours."""

    exit_status = 3
