"""A process that ends with the one that started it."""

# Run first in the new process. The kernel sends SIGTERM when the process that started this one is gone, even if it was
# killed; Linux has it (1 is PR_SET_PDEATHSIG). It stays true of the command that the process then becomes.
END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(0)
"""
