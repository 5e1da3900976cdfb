"""Scenes in, store out: restartable stages on dask."""
