"""`python -m models.backbones CHECKPOINT OUT.safetensors`: the backbone of a run's checkpoint as a file of its own."""

import sys

from models.backbones.build import main

sys.exit(main())
