"""Code by which a process ends together with its parent."""

# To be run first in the new process. The kernel then sends it SIGTERM when its parent is gone, even if killed. Linux
# only (1 is PR_SET_PDEATHSIG); it also holds for a command that the process then becomes by exec.
END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(0)
"""
