"""NVIDIA's driver, initialised while something else is done.

The first use of CUDA in a process waits for that, a second and more on hosts of several GPUs. It lets go of the
interpreter, so that torch is imported meanwhile.
"""

from __future__ import annotations

import ctypes
import threading

_LIBRARY = "libcuda.so.1"


def wake_driver() -> None:
    """Begin to initialise the driver, in a thread; whoever needs it then waits for the rest.

    The process must have been shown its devices before. Where there is no driver, nothing happens.
    """
    try:
        initialise = ctypes.CDLL(_LIBRARY).cuInit
    except (OSError, AttributeError):
        return
    threading.Thread(target=initialise, args=(0,), daemon=True).start()
