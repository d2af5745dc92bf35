"""The pictures of the phantom: scene, materials, optics, film."""
