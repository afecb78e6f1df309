"""The terminal side of segtui."""
