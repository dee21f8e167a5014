"""What is raised for files that must not or cannot be read."""
import pickle


class UnsafeCheckpointError(pickle.UnpicklingError, ValueError):
    """A file was refused because reading it could run code, or because it is no checkpoint. Nothing in it was run.

    It is a ValueError too, so that tools report it as they report a user's mistakes, in one line.
    """


class DamagedCheckpointError(RuntimeError):
    """A checkpoint that was named by the user is cut short or damaged; the message has the file and what is wrong."""
