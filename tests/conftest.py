"""Settings for all tests: quick compilation, and the same examples of hypothesis in every run."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The JAX tests spend their time in compiling tiny operations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Plans of the tests do not depend on what the user has tuned.
os.environ["KERAS_TENSORNET_CACHE"] = ""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")
