"""Computed tomography: Hounsfield units, windows, the body, three planes."""
