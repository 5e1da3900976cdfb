"""Faces: photographs and videos of people, for face security."""
