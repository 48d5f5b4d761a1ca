"""Errors that commands turn into one line for the user."""


class CommandError(Exception):
    """A command cannot go on for a reason that its user can mend.

    The command line prints the message on one line of standard error and exits with code 2.
    """
