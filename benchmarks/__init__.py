"""Speed of our code against the published code's way of doing the same, one question per script.

Everything runs in one thread. BLAS and OpenMP read these variables when they are loaded, so they are set here, which
Python runs before any module of this package can import numpy or torch.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
