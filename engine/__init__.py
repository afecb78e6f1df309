"""The engine of segtui: everything that trains, predicts and keeps runs. It knows nothing of the screen."""

import os

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))  # OpenCV looks once, when it is loaded; its own limit lets 3 GB through
