"""A module that leaves a thread behind, with which nobody may fork."""

import threading
import time

threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
