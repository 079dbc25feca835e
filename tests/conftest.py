"""Settings of all tests."""

import os

from hypothesis import settings

# Before anything imports TensorFlow: no banner, no GPU, and the only backend that the converter knows.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

# A deadline would judge the machine, and a failure must come back on the next run.
settings.register_profile("edgenas", deadline=None, derandomize=True)
settings.load_profile("edgenas")
