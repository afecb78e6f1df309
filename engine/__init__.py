"""The engine of segtui: everything that trains, predicts and keeps runs. It knows nothing of the screen."""
