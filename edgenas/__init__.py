"""EdgeNAS: the most accurate network within what your device can run."""
