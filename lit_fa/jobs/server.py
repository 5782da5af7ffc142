"""Imported first by the server from which workers are forked: signals of the whole group end workers, not the server.

Without the server the parent would not know how its workers end. It exits by itself when parent and workers have.
"""

import os
import signal

for _name in ("SIGINT", "SIGHUP", "SIGTERM"):
    signal.signal(getattr(signal, _name), signal.SIG_IGN)
# a package that asks on import whether there is a GPU must not initialise CUDA, which no forked process could use
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
