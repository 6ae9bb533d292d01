"""One thread for every test: these tensors are too small to share, and another busy process would stall all of them."""

import torch

torch.set_num_threads(1)
