"""Faces and lettering in a picture: what artists want kept as it is."""
